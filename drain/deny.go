package drain

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// ErrDenied is the failure to connect to an address that Options.Deny forbids.
// It does not say which: what a name means inside the operator's network is not
// for the owner of a drain to find out.
var ErrDenied = errors.New("drain: the address is not allowed for drains")

// InternalNetworks are the addresses that do not belong to the public Internet:
// loopback, private and link-local networks (with the metadata services of
// clouds), shared address space, multicast, and what stands for them in IPv6.
// It is what Options.Deny should hold where the URLs of drains come from people
// who must not reach the operator's own network.
func InternalNetworks() []netip.Prefix {
	var list []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
		"192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
		"::/127", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
	} {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

// dialer makes the connections of a drain. What is denied is checked for each
// address when it is dialled, after the name was resolved: a name that means
// something else a moment later gains nothing by it.
func dialer(deny []netip.Prefix) func(ctx context.Context, network, addr string) (net.Conn, error) {
	d := &net.Dialer{KeepAliveConfig: keepAlive}
	if len(deny) > 0 {
		d.ControlContext = func(_ context.Context, _, addr string, _ syscall.RawConn) error {
			return denied(deny, addr)
		}
	}
	return d.DialContext
}

func denied(deny []netip.Prefix, addr string) error {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return ErrDenied
	}
	ip := ap.Addr().Unmap().WithZone("")
	for _, p := range deny {
		if p.Contains(ip) {
			return ErrDenied
		}
	}
	return nil
}
