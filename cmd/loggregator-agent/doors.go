package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/ops"
	"github.com/cloudfoundry/loggregator/internal/ratelimit"
	"github.com/cloudfoundry/loggregator/transport"
	"github.com/cloudfoundry/loggregator/transport/dropsonde"
	"github.com/cloudfoundry/loggregator/transport/grpcv2"
	"github.com/cloudfoundry/loggregator/transport/logplexin"
	"github.com/cloudfoundry/loggregator/transport/syslogin"
)

// part is one thing that the daemon collects from, under way.
type part struct {
	section string // key of the config that it is of
	name    string
	run     func() error                    // until stop
	stop    func(ctx context.Context) error // returns when run will
	figures func(add func(ops.Metric))
}

// What is known of who sent a line.
var (
	syslogVars   = []string{"host", "program", "procid", "remote"}
	logplexVars  = []string{"app", "token", "user", "host", "program", "dyno"}
	instanceVars = []string{"app", "instance", "source_type"}
)

// limited is w with the limit, if there is one.
func limited(w envelope.Writer, l limitConfig) (envelope.Writer, *ratelimit.Writer) {
	if l.Rate == 0 {
		return w, nil
	}
	limit := ratelimit.New(w, int64(l.Rate), int64(l.Burst))
	return limit, limit
}

// withLimit ends the limit with the part, and shows what it has refused.
func (p *part) withLimit(l *ratelimit.Writer) *part {
	if l == nil {
		return p
	}
	stop, figures := p.stop, p.figures
	p.stop = func(ctx context.Context) error {
		defer l.Close()
		return stop(ctx)
	}
	p.figures = func(add func(ops.Metric)) {
		figures(add)
		add(ops.Metric{Name: "agent_refused_total", Help: "Records refused, by reason.", Value: float64(l.Refused()),
			Labels: []string{"section", p.section, "name", p.name, "reason", ratelimit.Reason.String()}})
	}
	return p
}

// figure shows a number of the part.
func (p *part) figure(add func(ops.Metric), name, help string, value uint64, labels ...string) {
	add(ops.Metric{Name: "agent_" + name, Help: help, Value: float64(value), Labels: append([]string{"section", p.section, "name", p.name}, labels...)})
}

const helpRefused = "Connections, datagrams and requests given up, by what was wrong with them."

func (p *part) refused(add func(ops.Metric), reasons map[string]uint64) {
	for reason, n := range reasons {
		p.figure(add, "rejected_total", helpRefused, n, "reason", reason)
	}
}

func (c *config) native(n nativeConfig, w envelope.Writer, log *slog.Logger) (*part, error) {
	o := &transport.ServerOptions{Logger: log}
	var err error
	if o.TLS, err = n.TLS.server(log); err != nil {
		return nil, err
	}
	if o.Secrets, err = readSecrets(n.Secrets); err != nil {
		return nil, err
	}
	server := transport.NewServer(w, o)
	p := &part{section: "native", name: n.Listen.String(), stop: server.Shutdown}
	p.figures = func(add func(ops.Metric)) {
		s := server.Stats()
		p.figure(add, "records_total", helpRecords, s.Records)
		p.figure(add, "bytes_total", helpBytes, s.Bytes)
		p.figure(add, "connections", "Connections open.", uint64(s.Connections))
		p.refused(add, s.Refused)
	}
	return p, p.listen(n.Listen, server.Serve, server.ServePacket)
}

const (
	helpRecords = "Records taken in, each source counted."
	helpBytes   = "Bytes read, each source counted."
)

func (c *config) syslog(s syslogConfig, w envelope.Writer, log *slog.Logger) (*part, error) {
	r := &rule{s.ruleConfig, c.Tags}
	w, limit := limited(w, s.Limit)
	o := &syslogin.Options{Logger: log, Identify: func(from syslogin.Origin) (envelope.Identity, bool) {
		id, ok := from.Identity()
		id, err := r.identity(r.over(id, ok, syslogOrigin(from)))
		return id, err == nil
	}}
	var err error
	if o.TLS, err = s.TLS.server(log); err != nil {
		return nil, err
	}
	server := syslogin.NewServer(w, o)
	p := &part{section: "syslog", name: s.Name, stop: server.Shutdown}
	p.figures = func(add func(ops.Metric)) {
		s := server.Stats()
		p.figure(add, "records_total", helpRecords, s.Records)
		p.figure(add, "bytes_total", helpBytes, s.Bytes)
		p.figure(add, "connections", "Connections open.", uint64(s.Connections))
		p.figure(add, "dropped_total", "Datagrams that the system had no room for.", s.Dropped)
		p.figure(add, "unparsed_total", "Messages kept as they are, because they are no syslog.", s.Unparsed)
		p.refused(add, s.Refused)
	}
	return p.withLimit(limit), p.listen(s.Listen, server.Serve, server.ServePacket)
}

func syslogOrigin(from syslogin.Origin) map[string]string {
	return map[string]string{"host": from.Hostname, "program": from.AppName, "procid": from.ProcID, "remote": from.Remote}
}

// over is what is known of a sender, whose identity is id where the rule says
// nothing.
func (r *rule) over(id envelope.Identity, ok bool, vars map[string]string) map[string]string {
	if !ok {
		return vars
	}
	if r.App == "" && r.AppID == "" && r.SourceID == "" {
		vars["source_id"], vars["app"] = id.SourceID, id.Tags[envelope.TagAppName]
	}
	vars["instance"], vars["source_type"] = id.InstanceID, id.Tags[envelope.TagSourceType]
	return vars
}

func (c *config) logplex(l logplexConfig, w envelope.Writer, log *slog.Logger) (*part, error) {
	r := &rule{l.ruleConfig, c.Tags}
	w, limit := limited(w, l.Limit)
	o := &logplexin.Options{Logger: log, Identify: func(from logplexin.Origin) (envelope.Identity, bool) {
		id, ok := from.Identity()
		id, err := r.identity(r.over(id, ok, logplexOrigin(from)))
		return id, err == nil
	}}
	var err error
	if o.Authorize, err = readTokens(l.Tokens); err != nil {
		return nil, err
	}
	config, err := l.TLS.server(log)
	if err != nil {
		return nil, err
	}
	handler := logplexin.New(w, o)
	server := daemon.HTTPServer(handler, log)
	p := &part{section: "logplex", name: l.Name}
	p.stop = func(ctx context.Context) error {
		return errors.Join(handler.Shutdown(ctx), server.Shutdown(ctx))
	}
	p.figures = func(add func(ops.Metric)) {
		s := handler.Stats()
		p.figure(add, "records_total", helpRecords, s.Records)
		p.figure(add, "bytes_total", helpBytes, s.Bytes)
		p.refused(add, s.Refused)
	}
	return p.withLimit(limit), p.listen(l.Listen, func(ln net.Listener) error {
		if config != nil {
			server.TLSConfig = config
			return server.ServeTLS(ln, "", "")
		}
		return server.Serve(ln)
	}, nil)
}

func logplexOrigin(from logplexin.Origin) map[string]string {
	return map[string]string{"app": from.App, "token": from.DrainToken, "user": from.User, "host": from.Hostname, "program": from.AppName, "dyno": from.ProcID}
}

func (c *config) dropsonde(d dropsondeConfig, w envelope.Writer, log *slog.Logger) (*part, error) {
	w, limit := limited(w, d.Limit)
	secrets, err := readSecrets(d.Secrets)
	if err != nil {
		return nil, err
	}
	server := dropsonde.NewServer(w, &dropsonde.Options{
		Deployment: d.Deployment, Job: d.Job, Index: d.Index, IP: d.IP, Secrets: secrets, Logger: log,
	})
	p := &part{section: "dropsonde", name: d.Listen.String(), stop: server.Shutdown}
	p.figures = func(add func(ops.Metric)) {
		s := server.Stats()
		p.figure(add, "records_total", helpRecords, s.Records)
		p.figure(add, "bytes_total", helpBytes, s.Bytes)
		p.figure(add, "dropped_total", "Datagrams that the system had no room for.", s.Dropped)
		p.refused(add, s.Refused)
	}
	return p.withLimit(limit), p.listen(d.Listen, nil, server.ServePacket)
}

func (c *config) grpc(g grpcConfig, w envelope.Writer, log *slog.Logger) (*part, error) {
	w, limit := limited(w, g.Limit)
	o := &grpcv2.Options{Logger: log}
	var err error
	if o.TLS, err = g.TLS.server(log); err != nil {
		return nil, err
	}
	server := grpcv2.NewServer(w, nil, o)
	p := &part{section: "grpc", name: g.Listen.String(), stop: server.Shutdown}
	p.figures = func(add func(ops.Metric)) {
		s := server.Stats()
		p.figure(add, "records_total", helpRecords, s.Records)
		p.figure(add, "bytes_total", helpBytes, s.Bytes)
		p.figure(add, "connections", "Connections open.", uint64(s.Connections))
		p.refused(add, s.Refused)
	}
	return p.withLimit(limit), p.listen(g.Listen, server.Serve, nil)
}

// listen opens the address now, so that what is wrong with it is known at once,
// and has run serve it. What systemd has opened at this address is used.
func (p *part) listen(a address, stream func(net.Listener) error, packets func(net.PacketConn) error) error {
	if stream != nil {
		if ln := daemon.PassedListener(a.network(), a.place); ln != nil {
			p.run = func() error { return stream(ln) }
			return nil
		}
	}
	if packets != nil {
		if pc := daemon.PassedPacketConn(a.network(), a.place); pc != nil {
			p.run = func() error { return packets(pc) }
			return nil
		}
	}
	if a.scheme == "unix" || a.scheme == "unixgram" {
		removeStale(a)
	}
	if a.scheme == "udp" || a.scheme == "unixgram" {
		pc, err := net.ListenPacket(a.network(), a.place)
		if err != nil {
			return fmt.Errorf("%s: %w", a, err)
		}
		p.run = func() error {
			if a.scheme == "unixgram" {
				defer os.Remove(a.place)
			}
			return packets(pc)
		}
		return nil
	}
	ln, err := net.Listen(a.network(), a.place)
	if err != nil {
		return fmt.Errorf("%s: %w", a, err)
	}
	p.run = func() error { return stream(ln) }
	return nil
}

// removeStale removes a socket that nobody listens at: one that a process left
// behind that was killed.
func removeStale(a address) {
	conn, err := net.Dial(a.scheme, a.place)
	if err == nil {
		conn.Close()
		return
	}
	if info, statErr := os.Lstat(a.place); statErr == nil && info.Mode()&os.ModeSocket != 0 && errors.Is(err, syscall.ECONNREFUSED) {
		os.Remove(a.place)
	}
}

// ended is nil for the errors by which servers say that they were told to stop.
func ended(err error) error {
	for _, told := range []error{transport.ErrClosed, syslogin.ErrClosed, dropsonde.ErrClosed, grpcv2.ErrClosed, http.ErrServerClosed, net.ErrClosed} {
		if errors.Is(err, told) {
			return nil
		}
	}
	return err
}

// server is the configuration of a listener with TLS, nil for none.
func (t tlsConfig) server(log *slog.Logger) (*tls.Config, error) {
	if t == (tlsConfig{}) {
		return nil, nil
	}
	return transport.TLSFiles{Cert: t.Cert, Key: t.Key, CA: t.CA, Logger: log}.Server()
}

// readSecrets reads a file with one secret a line; none for no file.
func readSecrets(path string) (secrets [][]byte, err error) {
	for line, err := range lines(path) {
		if err != nil {
			return nil, err
		}
		secrets = append(secrets, []byte(line))
	}
	if path != "" && len(secrets) == 0 {
		return nil, fmt.Errorf("%s: holds no secret", path)
	}
	return secrets, nil
}

// readTokens reads a file of those who may send: one "token application" a line.
// Without a file everybody may.
func readTokens(path string) (func(user, password, drainToken string) (string, bool), error) {
	if path == "" {
		return nil, nil
	}
	apps := make(map[[sha256.Size]byte]string) // so that how long a look takes says nothing of a token
	for line, err := range lines(path) {
		if err != nil {
			return nil, err
		}
		token, app, _ := strings.Cut(line, " ")
		apps[sha256.Sum256([]byte(token))] = strings.TrimSpace(app)
	}
	if len(apps) == 0 {
		return nil, fmt.Errorf("%s: holds no token", path)
	}
	return func(_, password, drainToken string) (string, bool) {
		app, ok := apps[sha256.Sum256([]byte(cmp.Or(password, drainToken)))]
		return app, ok
	}, nil
}

// lines yields the lines of a file that are not empty and no comments.
func lines(path string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if path == "" {
			return
		}
		f, err := os.Open(path)
		if err != nil {
			yield("", err)
			return
		}
		defer f.Close()
		s := bufio.NewScanner(f)
		for s.Scan() {
			if line := strings.TrimSpace(s.Text()); line != "" && line[0] != '#' && !yield(line, nil) {
				return
			}
		}
		if err := s.Err(); err != nil {
			yield("", fmt.Errorf("%s: %w", path, err))
		}
	}
}
