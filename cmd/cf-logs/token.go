package main

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"
)

// A token lets its bearer act as the user, so it goes only where it belongs.
//
// That of $LOGGREGATOR_TOKEN belongs to $LOGGREGATOR_TARGET, or, where that is not
// set, to whatever target is named. That of the cf client belongs to the hosts of
// its platform. Neither goes over a network unprotected.
const (
	tokenVariable  = "LOGGREGATOR_TOKEN"
	targetVariable = "LOGGREGATOR_TARGET"
)

// tokenFor is the token to send to target, or why there is none.
func tokenFor(target *url.URL, config cfConfig) (token, without string) {
	switch token = bare(os.Getenv(tokenVariable)); {
	case token != "":
		if own := os.Getenv(targetVariable); own != "" && !sameServer(own, target) {
			return "", fmt.Sprintf("$%s is for %s", tokenVariable, show(own))
		}
	default:
		if token = bare(config.AccessToken); token == "" {
			return "", ""
		}
		if !config.owns(target) {
			return "", fmt.Sprintf("the cf client's token is for %s, and goes nowhere else; $%s is for others", show(config.Target), tokenVariable)
		}
	}
	if target.Scheme != "https" && !local(target.Hostname()) {
		return "", "no token is sent over http:// to another machine; use https://"
	}
	return token, ""
}

// bare is a token without the word in front that the cf client keeps with it.
func bare(token string) string {
	token = strings.TrimSpace(token)
	if word, rest, ok := strings.Cut(token, " "); ok && strings.EqualFold(word, "bearer") {
		token = strings.TrimSpace(rest)
	}
	return token
}

// owns reports whether target is a host of the platform that the cf client is
// logged in to: one of those that the platform itself has named, or under the
// domain of its API, as doppler.sys.example.com is for api.sys.example.com.
func (c *cfConfig) owns(target *url.URL) bool {
	for _, named := range []string{c.Target, c.DopplerEndPoint, c.LogCacheEndPoint} {
		if sameServer(named, target) {
			return true
		}
	}
	api, err := url.Parse(c.Target)
	if err != nil || target.Scheme != "https" {
		return false
	}
	host, domain := strings.ToLower(target.Hostname()), ""
	if _, err := netip.ParseAddr(api.Hostname()); err != nil {
		_, domain, _ = strings.Cut(strings.ToLower(api.Hostname()), ".")
	}
	return strings.Count(domain, ".") > 0 && strings.HasSuffix(host, "."+domain)
}

// sameServer reports whether the address named is of the scheme, host and port of
// target. The two protocols of one port are one.
func sameServer(named string, target *url.URL) bool {
	u, err := url.Parse(strings.TrimSpace(named))
	if err != nil || u.Host == "" {
		return false
	}
	secure := map[string]bool{"https": true, "wss": true, "http": false, "ws": false}
	s, ok := secure[u.Scheme]
	return ok && s == (target.Scheme == "https") &&
		strings.EqualFold(u.Hostname(), target.Hostname()) && port(u) == port(target)
}

func port(u *url.URL) string {
	switch p := u.Port(); {
	case p != "":
		return p
	case u.Scheme == "https", u.Scheme == "wss":
		return "443"
	}
	return "80"
}

// local reports whether host is this machine.
func local(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// show is an address without what may be secret in it.
func show(address string) string {
	u, err := url.Parse(strings.TrimSpace(address))
	if err != nil || u.Host == "" {
		return "another server"
	}
	return u.Scheme + "://" + u.Host
}
