//go:build !linux

package follow

import "errors"

// notifier tells what changes in directories. Here nothing does.
type notifier struct{ wake chan struct{} }

// change is something that happened in a directory.
type change struct {
	dir, name string
	names     bool // names came or went
	unwatched bool // the directory is not watched any more
}

func newNotifier() (*notifier, error) {
	return nil, errors.New("this system does not tell of changes")
}

func (n *notifier) watch(string) bool             { return false }
func (n *notifier) take() (map[change]bool, bool) { return nil, true }
func (n *notifier) close()                        {}
