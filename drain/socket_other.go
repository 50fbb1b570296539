//go:build !linux

package drain

import (
	"net"
	"time"
)

// socket tells nothing here.
type socket struct{}

func newSocket(net.Conn, time.Duration) *socket { return nil }

func (*socket) queued() (n uint64, ok bool) { return 0, false }
func (*socket) window() (n uint64, ok bool) { return 0, false }
