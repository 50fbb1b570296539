//go:build !linux

package ringbuf

import "os"

// allocate makes f size bytes long and sets disk space aside for them.
func allocate(f *os.File, size int) error { return fill(f, size) }

// bootID is not known: a Store that was not closed may have been lost with the
// machine.
func bootID() string { return "" }
