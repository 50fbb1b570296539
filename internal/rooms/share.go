package rooms

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cloudfoundry/loggregator/drain"
	"github.com/cloudfoundry/loggregator/drain/share"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/ops"
)

const (
	// sharePort is that of -share, of servers whose address is not named.
	sharePort = "3460"
	// maxSharers bounds the connections to -share.
	maxSharers = 512
)

// Share is where the processes of a group learn which drains are whose.
type Share struct {
	p    *Process
	door *door
	file string
}

// NewShare adds the flags of the port for loggregator-drain processes that share
// their drains.
func NewShare(p *Process) *Share {
	s := &Share{p: p, door: p.door("share", "", "at which several loggregator-drain -group share their drains, as 127.0.0.1:"+sharePort)}
	s.door.strict = true
	p.Flags.StringVar(&s.file, "share-file", "", "`file` in which the places of drains that are shared outlive this process; empty: beside -recent-dir, or in memory only")
	return s
}

// Open serves a registry. Whoever reaches it is trusted as a member of any group.
// Where the rings outlive the process in a directory, dir, what members noted does so
// beside it, if no other file is named.
func (s *Share) Open(dir string) error {
	p := s.p
	ln, config, err := p.open(s.door)
	if err != nil || ln == nil {
		return err
	}
	registry := share.NewRegistry(nil)
	file := s.file
	if file == "" && dir != "" {
		file = filepath.Clean(dir) + ".shares"
	}
	if file != "" {
		if registry, err = share.OpenRegistry(file, nil); err != nil {
			return fmt.Errorf("-share-file: %w", err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle(share.Path, registry)
	server := daemon.HTTPServer(mux, p.Log)
	server.TLSConfig, server.ReadTimeout, server.WriteTimeout = config, 30*time.Second, 30*time.Second
	p.onStop(phaseOut, "drains that are shared", func(context.Context) error { return errors.Join(server.Close(), registry.Close()) }, nil)
	p.onPulse("share", func() { registry.Stats() })
	p.figures = append(p.figures, func(add func(ops.Metric)) {
		st := registry.Stats()
		failing := 0.0
		if registry.Err() != nil {
			failing = 1
		}
		add(ops.Metric{Name: "share_file_failing", Help: "1 while -share-file, or the one beside -recent-dir, cannot be written.", Value: failing})
		add(ops.Metric{Name: "share_bytes", Help: "What the members of groups have kept here.", Value: float64(st.Bytes)})
		for _, g := range st.Groups {
			for name, value := range map[string]int{"share_members": len(g.Members), "share_pieces": g.Pieces, "share_held": g.Held} {
				add(ops.Metric{Name: name, Help: "Of a group that shares drains: members that live, pieces of work, and those that are held.", Value: float64(value), Labels: []string{"group", g.Name}})
			}
		}
	})
	p.serve(func() error { return serveHTTP(server, limitConns(ln, maxSharers, config == nil)) }, http.ErrServerClosed)
	p.say("share", "%s://%s   loggregator-drain -group NAME", s.door.scheme("http"), ln.Addr())
	return nil
}

// Group is a process's part in a group that shares drains.
type Group struct {
	p       *Process
	servers *Remote
	name    string
	addrs   string
}

// NewGroup adds the flags of a process that may share its drains with others, at
// the servers that it reads from.
func NewGroup(p *Process, servers *Remote) *Group {
	g := &Group{p: p, servers: servers}
	p.Flags.StringVar(&g.name, "group", "", "`name` of the group of loggregator-drain processes that share the drains; their places are kept at the servers then, and -positions is not used. Empty: this one has them all")
	p.Flags.StringVar(&g.addrs, "group-at", "", "`URLs` of the servers' -share, one for each of -read, with commas between; empty: port "+sharePort+" of their hosts, https where -read says tls. TLS is that of -read")
	p.checks = append(p.checks, func() error {
		if g.name == "" {
			if g.addrs != "" {
				return errors.New("-group-at: is of no use without -group")
			}
			return nil
		}
		if len(g.name) > share.MaxName {
			return fmt.Errorf("-group: a name has at most %d bytes", share.MaxName)
		}
		_, err := g.urls()
		return err
	})
	return g
}

// urls are those of the registries.
func (g *Group) urls() (list []string, err error) {
	reads := strings.Split(g.servers.addr, ",")
	if g.addrs == "" {
		for _, addr := range reads {
			u, err := url.Parse(strings.TrimSpace(addr))
			if err != nil || u.Hostname() == "" {
				return nil, fmt.Errorf("-group-at: where is it for -read %s?", strings.TrimSpace(addr))
			}
			scheme := "http"
			if u.Scheme == "tls" {
				scheme = "https"
			}
			list = append(list, scheme+"://"+net.JoinHostPort(u.Hostname(), sharePort))
		}
		return list, nil
	}
	for addr := range strings.SplitSeq(g.addrs, ",") {
		addr = strings.TrimSpace(addr)
		if u, err := url.Parse(addr); err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
			return nil, errors.New("-group-at: addresses are like http://127.0.0.1:" + sharePort)
		}
		list = append(list, strings.TrimSuffix(addr, "/"))
	}
	if len(list) != len(reads) {
		return nil, fmt.Errorf("-group-at: names %d servers, -read %d", len(list), len(reads))
	}
	return list, nil
}

// Open gives what a Set needs to share its drains, nil without a group.
func (g *Group) Open() (*drain.Shared, error) {
	if g.name == "" {
		return nil, nil
	}
	urls, err := g.urls()
	if err != nil {
		return nil, err
	}
	current, err := g.servers.tls.current()
	if err != nil {
		return nil, err
	}
	reader, err := g.servers.Open()
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	shared := &drain.Shared{Group: g.name, Member: fmt.Sprintf("%.200s:%d", host, os.Getpid())}
	shared.Merge = func(servers []int) envelope.Source { return reader.Of(servers...) }
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	for i := range urls {
		t := &http.Transport{
			DialContext: dialer.DialContext,
			DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) { // certificates can be replaced
				return (&tls.Dialer{NetDialer: dialer, Config: current()}).DialContext(ctx, network, addr)
			},
			MaxIdleConnsPerHost: 1,
			IdleConnTimeout:     time.Minute,
		}
		shared.Servers = append(shared.Servers, drain.SharedServer{Source: reader.Of(i), Server: share.Server{
			Name: urls[i], URL: urls[i] + share.Path, HTTP: &http.Client{Transport: t},
		}})
	}
	g.p.say("group", "%s, shared at %s", g.name, strings.Join(urls, ","))
	return shared, nil
}
