package drain

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestD07DeniedAddresses(t *testing.T) {
	deny := rules{deny: InternalNetworks()}
	permit := func(r rules, addr string) bool { return r.permit(netip.MustParseAddrPort(addr)) }
	for _, addr := range []string{
		"127.0.0.1", "10.0.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255",
		"::1", "::", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "fd00::1", "fe80::1%eth0", "64:ff9b::a00:1", "2002:7f00:1::", "ff02::1",
	} {
		if permit(deny, net.JoinHostPort(addr, "514")) {
			t.Errorf("%s is allowed", addr)
		}
		if _, err := Open("syslog://"+net.JoinHostPort(strings.ReplaceAll(addr, "%", "%25"), "514"), newMemory(), everything, &Options{Deny: deny.deny}); !errors.Is(err, ErrDenied) || !errors.Is(err, ErrURL) {
			t.Errorf("%s: Open gave %v", addr, err)
		}
	}
	for _, addr := range []string{"8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:4860:4860::8888", "::ffff:8.8.8.8"} {
		if !permit(deny, net.JoinHostPort(addr, "514")) {
			t.Errorf("%s is denied", addr)
		}
	}
	ten := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	if !permit(rules{}, "10.0.0.1:1") || !permit(rules{deny: ten}, "11.0.0.1:1") {
		t.Error("denied without a rule")
	}
}

// TestD09DeniedAtDial has a name that resolves to a denied address.
func TestD09DeniedAtDial(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan struct{}, 1)
	go func() {
		if c, err := ln.Accept(); err == nil {
			c.Close()
			accepted <- struct{}{}
		}
	}()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	failed := make(chan struct{}, 100)
	for _, scheme := range []string{"syslog://", "https://"} {
		src := newMemory()
		src.lines(1, 0, 1)
		d := open(t, scheme+"localhost:"+port, src, &Options{
			Deny:    InternalNetworks(),
			Backoff: func(int) time.Duration { failed <- struct{}{}; return time.Hour },
		})
		<-failed
		// Backoff is asked before the failure is noted, so wait for the end.
		d.Close()
		if s := d.Stats(); !strings.Contains(s.LastError, ErrDenied.Error()) || s.Connects != 0 {
			t.Errorf("%s: %+v", scheme, s)
		}
	}
	if _, err := newDialer(nil, nil, nil, nil).dial(t.Context(), "tcp", ln.Addr().String()); err != nil {
		t.Error(err)
	}
	<-accepted
	if _, err := newDialer(InternalNetworks(), nil, nil, nil).dial(t.Context(), "tcp", ln.Addr().String()); !errors.Is(err, ErrDenied) {
		t.Error(err)
	}
}
