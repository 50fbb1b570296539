//go:build !linux

package main

import (
	"errors"
	"io"
)

// aside is nothing where pages cannot be moved.
type aside struct{ left int }

const maxAside = 0

func newAside() (*aside, error)             { return nil, errors.ErrUnsupported }
func (*aside) read(buf []byte) (int, error) { return 0, io.ErrUnexpectedEOF }
func (*aside) close()                       {}

// Take takes nothing.
func (l *gatherLog) Take(io.Reader) (n int, all bool, err error) { return 0, false, errCopy }
