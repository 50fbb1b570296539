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
// (sd_listen_fds(3)), by the FileDescriptorName= of their units.
var passed struct {
	once sync.Once
	mu   sync.Mutex
	all  []*socket
}

type socket struct {
	file  *os.File // kept open: who listens has a duplicate
	taken bool
}

// passedSockets are the sockets. The caller holds passed.mu.
func passedSockets() []*socket {
	passed.once.Do(func() {
		for _, f := range activation.Files(true) {
			passed.all = append(passed.all, &socket{file: f})
		}
	})
	return passed.all
}

// passedNamed is the passed socket of this name, or nil.
func passedNamed(name string) (*os.File, error) {
	passed.mu.Lock()
	defer passed.mu.Unlock()
	var found *os.File
	for _, s := range passedSockets() {
		if s.file.Name() != name {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("-%s: several sockets of this name were passed, and one is wanted", name)
		}
		found, s.taken = s.file, true
	}
	return found, nil
}

// Unclaimed says which sockets were passed that no listener has taken: connections
// to them would wait for ever.
func Unclaimed() error {
	passed.mu.Lock()
	defer passed.mu.Unlock()
	var errs []error
	for _, s := range passedSockets() {
		if !s.taken {
			errs = append(errs, fmt.Errorf("a socket named %q was passed, which is no listener here; FileDescriptorName= is the name of a flag, as ingest or http", s.file.Name()))
		}
	}
	return errors.Join(errs...)
}

// passedListener is the listener that systemd has opened for a flag, or nil.
func passedListener(flagName string) (net.Listener, error) {
	f, err := passedNamed(flagName)
	if f == nil || err != nil {
		return nil, err
	}
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("-%s: the socket that was passed: %w", flagName, err)
	}
	return ln, nil
}

func passedPacketConn(flagName string) (net.PacketConn, error) {
	f, err := passedNamed(flagName)
	if f == nil || err != nil {
		return nil, err
	}
	pc, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("-%s: the socket that was passed: %w", flagName, err)
	}
	return pc, nil
}

// PassedListener is a listener at an address that systemd has opened, or nil if it
// has not. It may be asked for again once the one before is closed.
func PassedListener(network, addr string) net.Listener {
	passed.mu.Lock()
	defer passed.mu.Unlock()
	for _, s := range passedSockets() {
		ln, err := net.FileListener(s.file)
		if err != nil {
			continue
		}
		if ln.Addr().Network() == network && ln.Addr().String() == addr {
			s.taken = true
			return ln
		}
		ln.Close()
	}
	return nil
}

// PassedPacketConn is PassedListener for datagrams.
func PassedPacketConn(network, addr string) net.PacketConn {
	passed.mu.Lock()
	defer passed.mu.Unlock()
	for _, s := range passedSockets() {
		pc, err := net.FilePacketConn(s.file)
		if err != nil {
			continue
		}
		if pc.LocalAddr().Network() == network && pc.LocalAddr().String() == addr {
			s.taken = true
			return pc
		}
		pc.Close()
	}
	return nil
}
