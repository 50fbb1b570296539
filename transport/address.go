package transport

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// ErrAddress means an address that is not tcp://host:port, tls://host:port,
// unix:///path, or udp://host:port by itself. Errors that wrap it do not repeat
// the address, which may hold what belongs into no log.
var ErrAddress = errors.New("transport: address must be tcp://host:port, tls://host:port, unix:///path or udp://host:port")

// target is one server a Link may use.
type target struct {
	network string // tcp, unix or udp
	address string // host:port or path
	host    string // of TLS, to be verified; empty means no TLS
}

func (t target) String() string {
	switch {
	case t.network != "tcp":
		return t.network + "://" + t.address
	case t.host != "":
		return "tls://" + t.address
	}
	return "tcp://" + t.address
}

// parseTargets reads a list of addresses, separated by commas.
func parseTargets(list string) ([]target, error) {
	var targets []target
	for item := range strings.SplitSeq(list, ",") {
		t, err := parseTarget(strings.TrimSpace(item))
		if err != nil {
			return nil, err
		}
		if !slices.Contains(targets, t) {
			targets = append(targets, t)
		}
	}
	for _, t := range targets {
		if t.network == "udp" && len(targets) > 1 {
			return nil, fmt.Errorf("%w: udp goes to one server, which does not say whether it is there", ErrAddress)
		}
	}
	return targets, nil
}

func parseTarget(s string) (target, error) {
	u, err := url.Parse(s)
	if err != nil { // its text repeats s
		return target{}, fmt.Errorf("%w: not a URL", ErrAddress)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return target{}, fmt.Errorf("%w: neither user nor query belong there", ErrAddress)
	}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || !strings.HasPrefix(u.Path, "/") || u.Path == "/" {
			return target{}, fmt.Errorf("%w: a unix address has three slashes and a path", ErrAddress)
		}
		return target{network: "unix", address: u.Path}, nil
	case "tcp", "tls", "udp":
		if u.Path != "" && u.Path != "/" {
			return target{}, fmt.Errorf("%w: no path after the port", ErrAddress)
		}
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		if err != nil || port == 0 || u.Hostname() == "" {
			return target{}, fmt.Errorf("%w: host and port are required", ErrAddress)
		}
		t := target{network: "tcp", address: net.JoinHostPort(u.Hostname(), u.Port())}
		switch u.Scheme {
		case "tls":
			t.host = u.Hostname()
		case "udp":
			t.network = "udp"
		}
		return t, nil
	}
	return target{}, ErrAddress
}
