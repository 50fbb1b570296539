//go:build unix

package daemon

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// DumpOnSignal writes all goroutines to w at each SIGUSR1, until ctx ends.
func DumpOnSignal(ctx context.Context, w io.Writer) {
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, syscall.SIGUSR1)
	go func() {
		defer signal.Stop(usr1)
		for {
			select {
			case <-usr1:
				WriteGoroutines(w)
			case <-ctx.Done():
				return
			}
		}
	}()
}

// Reloads tells of SIGHUP, until ctx ends; from then on it is ignored.
func Reloads(ctx context.Context) <-chan struct{} {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	reload := make(chan struct{})
	go func() {
		defer signal.Ignore(syscall.SIGHUP)
		for {
			select {
			case <-hup:
			case <-ctx.Done():
				return
			}
			select {
			case reload <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return reload
}
