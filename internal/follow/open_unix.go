//go:build unix

package follow

import (
	"os"
	"syscall"
)

// open opens a file to read. What has become a pipe since it was looked at does
// not hold anybody up.
func open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}
