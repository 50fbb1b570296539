//go:build unix

package ringbuf

import "syscall"

// newMemory maps memory outside the Go heap. The collector then neither scans it
// nor counts it when it decides how much garbage may pile up: with the default
// GOGC a budget of 1 GiB inside the heap would let the process grow to 2 GiB.
func newMemory(size int) ([]byte, error) {
	return syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
}

func freeMemory(b []byte) { syscall.Munmap(b) }
