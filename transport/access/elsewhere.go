package access

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strings"
)

// Elsewhere is the sentence for a request that a web page from elsewhere made its
// visitor's browser send, to be answered with status 403, or empty. A server asks
// it before anything else.
func (g *Gate) Elsewhere(r *http.Request) string {
	sentence := g.elsewhere(r)
	if sentence != "" {
		g.foreign.Add(1)
	}
	return sentence
}

func (g *Gate) elsewhere(r *http.Request) string {
	if origin := r.Header.Get("Origin"); origin != "" && !g.ownOrigin(origin, r.Host) {
		return "a web page from elsewhere may not read here; the server's list of origins says which may"
	}
	if g.a == nil && onLoopback(r) && !g.ownHost(r.Host) {
		return "this server is asked for as localhost or by its address; its list of hosts says by which other names"
	}
	return ""
}

// ownOrigin reports whether a page's origin (RFC 6454) is the host that the
// request is for, or one of Options.Origins.
func (g *Gate) ownOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	if strings.EqualFold(withoutDefault(u.Host, u.Scheme), withoutDefault(host, u.Scheme)) {
		return true
	}
	for _, pattern := range g.opt.Origins {
		if ok, _ := path.Match(strings.ToLower(pattern), strings.ToLower(u.Host)); ok {
			return true
		}
	}
	return false
}

// withoutDefault is host without the port that a scheme has anyway: some clients
// name it in one place and not in the other.
func withoutDefault(host, scheme string) string {
	switch scheme {
	case "https", "wss":
		return strings.TrimSuffix(host, ":443")
	case "http", "ws":
		return strings.TrimSuffix(host, ":80")
	}
	return host
}

// ownHost reports whether host, as the client named it, is an address, localhost,
// or one of Options.Hosts.
func (g *Gate) ownHost(host string) bool {
	name := hostname(host)
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "" || name == "localhost" || strings.HasSuffix(name, ".localhost") { // RFC 6761, section 6.3
		return true
	}
	for _, own := range g.opt.Hosts {
		if strings.EqualFold(name, own) {
			return true
		}
	}
	return false
}

// hostname is host without its port and brackets.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}

// onLoopback reports whether the request came to a loopback address.
func onLoopback(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && addr.IP.IsLoopback()
}
