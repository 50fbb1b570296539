//go:build !unix

package daemon

import (
	"context"
	"io"
)

// DumpOnSignal does nothing: this system has no SIGUSR1.
func DumpOnSignal(context.Context, io.Writer) {}

// Reloads tells of nothing: this system has no SIGHUP.
func Reloads(context.Context) <-chan struct{} { return nil }
