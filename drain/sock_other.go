//go:build !linux

package drain

import (
	"net"
	"time"
)

func setUserTimeout(net.Conn, time.Duration) {}

func unacked(net.Conn) (n uint64, ok bool) { return 0, false }
