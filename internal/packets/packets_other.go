//go:build !linux

package packets

import "net"

type many struct{}

func newMany(*Reader) *many { return nil }

func (*many) read() (int, error) { return 0, net.ErrClosed }

func systemDrops(net.PacketConn) (uint32, bool) { return 0, false }
