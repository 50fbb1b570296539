package drain

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
)

// ErrDenied is the failure to connect to an address or port that the Options
// forbid. It does not say which: what a name means inside the operator's network
// is not for the owner of a drain to find out.
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

// rules say what may be dialled.
type rules struct {
	deny, allow []netip.Prefix
	ports       [][2]uint16
}

func (r *rules) permit(a netip.AddrPort) bool {
	ip := a.Addr().Unmap().WithZone("")
	holds := func(p netip.Prefix) bool { return p.Contains(ip) }
	if slices.ContainsFunc(r.deny, holds) && !slices.ContainsFunc(r.allow, holds) {
		return false
	}
	return r.ports == nil || slices.ContainsFunc(r.ports, func(p [2]uint16) bool { return p[0] <= a.Port() && a.Port() <= p[1] })
}

// mayPermit reports whether anything that t means may be dialled, as far as the
// URL alone tells.
func (d *dialer) mayPermit(t *target) bool {
	ip, err := netip.ParseAddr(t.host)
	port, bad := strconv.ParseUint(t.port, 10, 16)
	if bad != nil {
		return false
	}
	if err != nil {
		r := rules{ports: d.rules.ports}
		return r.permit(netip.AddrPortFrom(netip.Addr{}, uint16(port)))
	}
	return d.rules.permit(netip.AddrPortFrom(ip, uint16(port)))
}
