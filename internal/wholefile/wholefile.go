// Package wholefile writes files of which there is always a whole one: the new one
// takes the old one's place when it is on the disk.
package wholefile

import (
	"bufio"
	"io"
	"os"
)

// Write has write write the file, with mode 0600. If that fails, the file stays as it
// was. Until it has succeeded, path.new is its own; one that a process left there
// that was killed is written over.
func Write(path string, write func(io.Writer) error) (err error) {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	out := bufio.NewWriterSize(f, 64<<10)
	if err := write(out); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
