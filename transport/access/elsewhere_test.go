package access

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestElsewhere(t *testing.T) {
	loopback, outside := net.IPv4(127, 0, 0, 1), net.IPv4(10, 0, 0, 1)
	opt := &Options{Origins: []string{"*.acme.test"}, Hosts: []string{"logs.acme.test"}}
	for _, tt := range []struct {
		name         string
		restricted   bool
		local        net.IP
		host, origin string
		ok           bool
	}{
		{"no page", true, outside, "logs.test", "", true},
		{"its own page", true, outside, "logs.test", "https://logs.test", true},
		{"its own page with a port", true, outside, "logs.test:8080", "http://LOGS.test:8080", true},
		{"the port that is meant anyway", true, outside, "logs.test", "wss://logs.test:443", true},
		{"another port", true, outside, "logs.test", "https://logs.test:8443", false},
		{"a page from elsewhere", true, outside, "logs.test", "https://evil.test", false},
		{"one that looks like it", true, outside, "logs.test", "https://logs.test.evil.test", false},
		{"one that may", true, outside, "logs.test", "https://console.acme.test", true},
		{"a file", true, outside, "logs.test", "null", false},
		{"no address", true, outside, "logs.test", "%", false},
		{"from elsewhere without tokens", false, loopback, "127.0.0.1:8080", "https://evil.test", false},
		{"localhost", false, loopback, "localhost:8080", "", true},
		{"an address", false, loopback, "127.0.0.1:8080", "", true},
		{"another address", false, loopback, "[::1]:8080", "", true},
		{"an address alone", false, loopback, "[::1]", "", true},
		{"no host", false, loopback, "", "", true},
		{"a name that is ours", false, loopback, "logs.acme.test:8080", "", true},
		{"a name that leads here", false, loopback, "evil.test:8080", "", false},
		{"its page", false, loopback, "evil.test:8080", "http://evil.test:8080", false},
		{"a name like localhost", false, loopback, "localhost.evil.test", "", false},
		{"a name where tokens are needed", true, loopback, "logs.test", "", true},
		{"a name from outside", false, outside, "logs.test", "", true},
	} {
		var a Authorizer
		if tt.restricted {
			a = book{}
		}
		g := NewGate(&wire{}, a, opt)
		r := httptest.NewRequest(http.MethodGet, "/v1/tail", nil)
		r.Host = tt.host
		if tt.origin != "" {
			r.Header.Set("Origin", tt.origin)
		}
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: tt.local})))
		if sentence := g.Elsewhere(r); (sentence == "") != tt.ok || (g.Stats().Foreign == 0) != tt.ok {
			t.Errorf("%s: %q", tt.name, sentence)
		}
	}
}
