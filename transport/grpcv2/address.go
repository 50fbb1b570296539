package grpcv2

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// ErrAddress means an address that is not grpc://host:port or grpcs://host:port.
// Errors that wrap it do not repeat the address, which may hold what belongs into
// no log.
var ErrAddress = errors.New("grpcv2: address must be grpc://host:port or grpcs://host:port, with ?name=NAME if the server's certificate has another name than host")

// target is one server that a Link may use.
type target struct {
	address string // host:port
	tls     bool
	name    string // to look for in the server's certificate
}

func (t target) String() string {
	if t.tls {
		return "grpcs://" + t.address
	}
	return "grpc://" + t.address
}

// CheckAddress reports what is wrong with an address for NewLink, if anything.
func CheckAddress(addr string) error {
	_, err := parseTargets(addr)
	return err
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
	return targets, nil
}

func parseTarget(s string) (target, error) {
	u, err := url.Parse(s)
	if err != nil { // its text repeats s
		return target{}, fmt.Errorf("%w: not a URL", ErrAddress)
	}
	if u.Scheme != "grpc" && u.Scheme != "grpcs" {
		return target{}, ErrAddress
	}
	if u.User != nil || u.Fragment != "" || u.Path != "" && u.Path != "/" {
		return target{}, fmt.Errorf("%w: neither user nor path belong there", ErrAddress)
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || port == 0 || u.Hostname() == "" {
		return target{}, fmt.Errorf("%w: host and port are required", ErrAddress)
	}
	t := target{address: net.JoinHostPort(u.Hostname(), u.Port()), tls: u.Scheme == "grpcs"}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return target{}, fmt.Errorf("%w: not a query", ErrAddress)
	}
	for key, values := range query {
		if key != "name" || len(values) != 1 || !t.tls {
			return target{}, fmt.Errorf("%w: no other query belongs there", ErrAddress)
		}
		t.name = values[0]
	}
	if t.tls && t.name == "" {
		t.name = u.Hostname()
	}
	return t, nil
}
