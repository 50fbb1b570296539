package drain

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

const (
	dialTimeout = 10 * time.Second // to connect with TLS handshake
	dialStagger = 300 * time.Millisecond
	maxAddrs    = 8 // of a name that are tried
)

var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

// dialer makes the connections of drains. A name is resolved at each attempt, and
// what is denied is checked for each address when it is dialled: a name that
// means something else a moment later gains nothing by it. Of a name that has
// both, only the allowed addresses are dialled.
type dialer struct {
	rules   rules
	lookup  func(ctx context.Context, host string) ([]netip.Addr, error)
	connect func(ctx context.Context, network, addr string) (net.Conn, error)
}

func newDialer(deny, allow []netip.Prefix, ports [][2]uint16, lookup func(context.Context, string) ([]netip.Addr, error)) *dialer {
	d := &dialer{rules: rules{deny: deny, allow: allow, ports: ports}, lookup: lookup}
	if d.lookup == nil {
		d.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	one := &net.Dialer{KeepAliveConfig: keepAlive}
	one.ControlContext = func(_ context.Context, _, addr string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(addr)
		if err != nil || !d.rules.permit(ap) {
			return ErrDenied
		}
		return nil
	}
	d.connect = one.DialContext
	return d
}

// addrs are the addresses of host that may be dialled, alternating between
// IPv6 and IPv4.
func (d *dialer) addrs(ctx context.Context, host string, port uint16) ([]netip.AddrPort, error) {
	ips := []netip.Addr{}
	if ip, err := netip.ParseAddr(host); err == nil {
		ips = append(ips, ip)
	} else if ips, err = d.lookup(ctx, host); err != nil {
		return nil, err
	}
	var six, four, list []netip.AddrPort
	for _, ip := range ips {
		ap := netip.AddrPortFrom(ip.Unmap(), port)
		switch {
		case !d.rules.permit(ap):
		case ap.Addr().Is4():
			four = append(four, ap)
		default:
			six = append(six, ap)
		}
	}
	if len(six)+len(four) == 0 {
		return nil, ErrDenied
	}
	for i := range max(len(six), len(four)) {
		list = append(list, six[min(i, len(six)):min(i+1, len(six))]...)
		list = append(list, four[min(i, len(four)):min(i+1, len(four))]...)
	}
	return list[:min(len(list), maxAddrs)], nil
}

// dial connects to the first address that answers. The next one is tried when
// one fails, or has not answered for a moment.
func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, network, service)
	if err != nil {
		return nil, err
	}
	list, err := d.addrs(ctx, host, uint16(port))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	start := func(a netip.AddrPort) {
		c, err := d.connect(ctx, network, a.String())
		select {
		case results <- result{c, err}:
		case <-ctx.Done():
			if c != nil {
				c.Close()
			}
		}
	}
	stagger := time.NewTimer(0)
	defer stagger.Stop()
	var first error
	for started, failed := 0, 0; ; {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-stagger.C:
			if started < len(list) {
				go start(list[started])
				started++
				stagger.Reset(dialStagger)
			}
		case r := <-results:
			if r.err == nil {
				return r.conn, nil
			}
			if first == nil {
				first = r.err
			}
			if failed++; failed == len(list) {
				return nil, first
			}
			stagger.Reset(0)
		}
	}
}

// moved reports whether name no longer means ip. That a name cannot be resolved
// says nothing.
func (d *dialer) moved(ctx context.Context, name string, ip netip.Addr) bool {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	ips, err := d.lookup(ctx, name)
	if err != nil || len(ips) == 0 {
		return false
	}
	return !slices.ContainsFunc(ips, func(a netip.Addr) bool { return a.Unmap().WithZone("") == ip.Unmap().WithZone("") })
}
