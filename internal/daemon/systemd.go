package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// Notify tells systemd how the process is, if it was started by it (sd_notify(3)):
// "READY=1", "STOPPING=1", "STATUS=…". It does nothing elsewhere.
func Notify(state ...string) {
	systemd.SdNotify(false, strings.Join(state, "\n"))
}

// NotifyReloading tells systemd that a reload begins, which READY=1 ends.
func NotifyReloading() { Notify("RELOADING=1", systemd.SdNotifyMonotonicUsec()) }

// Watchdog tells systemd's watchdog that the process is alive for as long as
// healthy says nil, until ctx ends. Without a watchdog it returns at once.
func Watchdog(ctx context.Context, healthy func() error) {
	every, err := systemd.SdWatchdogEnabled(false)
	if err != nil || every <= 0 {
		return
	}
	tick := time.NewTicker(every / 3)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if healthy() == nil {
				Notify("WATCHDOG=1")
			}
		case <-ctx.Done():
			return
		}
	}
}

// passed are the sockets that systemd opened before it started the process
// (sd_listen_fds(3)), by the FileDescriptorName= of their units. They are taken
// once.
var passed = struct {
	once sync.Once
	mu   sync.Mutex
	all  map[string][]*os.File
}{}

// takePassed is the passed socket of this name, which is then the caller's, or nil.
func takePassed(name string) (*os.File, error) {
	passed.once.Do(func() {
		passed.all = make(map[string][]*os.File)
		for _, f := range activation.Files(true) {
			passed.all[f.Name()] = append(passed.all[f.Name()], f)
		}
	})
	passed.mu.Lock()
	defer passed.mu.Unlock()
	files := passed.all[name]
	if len(files) > 1 {
		return nil, fmt.Errorf("-%s: %d sockets of this name were passed, and one is wanted", name, len(files))
	}
	delete(passed.all, name)
	if len(files) == 0 {
		return nil, nil
	}
	return files[0], nil
}

// Unclaimed says which sockets were passed that no listener has taken: connections
// to them would wait for ever.
func Unclaimed() error {
	if _, err := takePassed(""); err != nil {
		return err
	}
	passed.mu.Lock()
	defer passed.mu.Unlock()
	var errs []error
	for name := range passed.all {
		errs = append(errs, fmt.Errorf("a socket named %q was passed, which is no listener here; FileDescriptorName= is the name of a flag, as ingest or http", name))
	}
	return errors.Join(errs...)
}

// passedListener is the listener that systemd has opened for a flag, or nil.
func passedListener(flagName string) (net.Listener, error) {
	f, err := takePassed(flagName)
	if f == nil || err != nil {
		return nil, err
	}
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("-%s: the socket that was passed: %w", flagName, err)
	}
	return ln, nil
}

func passedPacketConn(flagName string) (net.PacketConn, error) {
	f, err := takePassed(flagName)
	if f == nil || err != nil {
		return nil, err
	}
	defer f.Close()
	pc, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("-%s: the socket that was passed: %w", flagName, err)
	}
	return pc, nil
}
