package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/receiver"
)

const aboutReceive = `Usage: loggregator-drain receive [flags]

Prints what a drain sends to it, and says what is wrong with it: framing (octet
counting, RFC 6587), messages (RFC 5424, strictly), and the headers of Heroku's
HTTPS drains. It shows whether a drain works, and what it does when its receiver
does not:

  loggregator-drain receive                      take syslog:// at 127.0.0.1:5514
  loggregator-drain receive -tls                 take syslog-tls://
  loggregator-drain receive -https               take https://, https-batch://, https-logplex://
  loggregator-drain receive -misbehave stall     take connections, and never read
  loggregator-drain receive -https -misbehave status=503,retry-after=30s -for 2m

With -tls and -https it makes a certificate for this run, unless it is given one,
and says in which file the drain finds the CA to trust.

-misbehave takes one of these, or several with commas between:
  refuse            nobody listens
  close             connections are closed at once
  stall             connections are never read
  crawl=BYTES       so many bytes are read in a second
  reset=BYTES       each connection is reset after so many bytes
  status=CODE       HTTPS requests are answered so, with retry-after=DURATION if given
  delay=DURATION    HTTPS requests wait so long for their answer

It runs until Ctrl-C, or until it has -count messages, and ends with status 1 if
anything was wrong.
`

type receiveConfig struct {
	listen, cert, key, caFile string
	hosts                     string
	tls, https, raw, quiet    bool
	insecure                  bool
	misbehave                 string
	fault                     receiver.Fault
	lasts                     time.Duration
	count                     uint64
}

func parseReceive(args []string, stderr io.Writer) (receiveConfig, error) {
	var c receiveConfig
	fs := flag.NewFlagSet(name+" receive", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = daemon.Usage(fs, aboutReceive)
	fs.StringVar(&c.listen, "listen", "127.0.0.1:5514", "`address` to listen at")
	fs.BoolVar(&c.tls, "tls", false, "take syslog-tls")
	fs.BoolVar(&c.https, "https", false, "take https, https-batch and https-logplex")
	fs.StringVar(&c.cert, "cert", "", "PEM `file` of the certificate to show; default one made for this run")
	fs.StringVar(&c.key, "key", "", "PEM `file` of its key")
	fs.StringVar(&c.caFile, "ca-file", "", "`file` to write the CA to that a drain has to trust; default one in the directory for temporary files, removed at the end")
	fs.StringVar(&c.hosts, "hosts", "", "`names` or addresses, with commas between, that the certificate is for, besides this machine's")
	fs.BoolVar(&c.raw, "raw", false, "print messages as they are, nothing in front")
	fs.BoolVar(&c.quiet, "quiet", false, "print what is wrong only")
	fs.Uint64Var(&c.count, "count", 0, "end after so many messages; 0: do not")
	fs.StringVar(&c.misbehave, "misbehave", "", "`how` to misbehave, see above")
	fs.DurationVar(&c.lasts, "for", 0, "how long to misbehave, and then behave; 0: always")
	fs.BoolVar(&c.insecure, "insecure", false, "allow an address that other machines can reach")
	if err := daemon.Parse(fs, args); err != nil {
		return c, err
	}
	if fs.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q; see receive -help", fs.Arg(0))
	}
	if (c.cert == "") != (c.key == "") {
		return c, errors.New("-cert and -key go together")
	}
	if c.cert != "" && !c.tls && !c.https {
		return c, errors.New("-cert is for -tls and -https")
	}
	var err error
	c.fault, err = parseFault(c.misbehave)
	if err == nil && !c.https && (c.fault.Status != 0 || c.fault.Delay != 0) {
		err = errors.New("-misbehave: status and delay are for -https")
	}
	return c, err
}

func parseFault(s string) (f receiver.Fault, err error) {
	if s == "" {
		return f, nil
	}
	for item := range strings.SplitSeq(s, ",") {
		what, value, _ := strings.Cut(item, "=")
		switch what {
		case "refuse":
			f.Refuse = true
		case "close":
			f.Close = true
		case "stall":
			f.Stall = true
		case "crawl":
			f.Crawl, err = strconv.Atoi(value)
			if f.Crawl < 1 {
				err = errors.New("a number of bytes")
			}
		case "reset":
			f.Reset, err = strconv.ParseInt(value, 10, 64)
			if f.Reset < 1 {
				err = errors.New("a number of bytes")
			}
		case "status":
			f.Status, err = strconv.Atoi(value)
			if f.Status < 200 || f.Status > 599 {
				err = errors.New("from 200 to 599")
			}
		case "retry-after":
			f.RetryAfter, err = time.ParseDuration(value)
		case "delay":
			f.Delay, err = time.ParseDuration(value)
		default:
			return f, fmt.Errorf("-misbehave: there is no %q; there are refuse, close, stall, crawl, reset, status, retry-after and delay", item)
		}
		if err != nil {
			return f, fmt.Errorf("-misbehave: %q is not understood", item)
		}
	}
	return f, nil
}

// receive is the command: a receiver to point a drain at.
func receive(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	c, err := parseReceive(args, stderr)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	opt := &receiver.Options{HTTPS: c.https, Fault: c.fault}
	var ca string
	if c.tls || c.https {
		var remove func()
		if opt.TLS, ca, remove, err = c.certificate(); err != nil {
			return err
		}
		defer remove()
	}
	ln, err := daemon.Listen("listen", "tcp", c.listen, c.insecure)
	if err != nil {
		return err
	}
	if ln == nil {
		return errors.New("-listen: there is nothing to do without an address")
	}
	out := &printer{out: stdout, raw: c.raw, quiet: c.quiet, count: c.count, enough: stop}
	opt.Report = out.print
	r, err := receiver.New(ln, opt)
	if err != nil {
		return err
	}
	defer r.Close()
	c.announce(out, r, ca)
	if c.misbehave != "" && c.lasts > 0 {
		timer := time.AfterFunc(c.lasts, func() {
			if err := r.Misbehave(receiver.Fault{}); err != nil {
				out.say("Cannot behave again: %v.", err)
				stop()
				return
			}
			out.say("From now on it behaves.")
		})
		defer timer.Stop()
	}

	<-ctx.Done()
	r.Close()
	s := r.Stats()
	requests := ""
	if c.https {
		requests = fmt.Sprintf(" in %d requests", s.Requests)
	}
	out.say("Received %d messages%s over %d connections; %d problems.", s.Messages, requests, s.Connections, s.Problems)
	if s.Problems > 0 {
		return &daemon.Exit{Code: 1}
	}
	return nil
}

// certificate gives the TLS configuration, the file with the CA to trust, if it
// is known, and a function that removes the file in the end.
func (c *receiveConfig) certificate() (_ *tls.Config, caFile string, remove func(), err error) {
	remove = func() {}
	if c.cert != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return nil, "", remove, fmt.Errorf("-cert: %w", err)
		}
		return &tls.Config{Certificates: []tls.Certificate{pair}}, "", remove, nil
	}
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	if host, _, err := net.SplitHostPort(c.listen); err == nil && host != "" && host != "0.0.0.0" && host != "::" {
		hosts = append(hosts, host)
	}
	if host, err := os.Hostname(); err == nil {
		hosts = append(hosts, host)
	}
	if c.hosts != "" {
		hosts = append(hosts, strings.Split(c.hosts, ",")...)
	}
	pair, text, err := receiver.SelfSigned(90*24*time.Hour, hosts...)
	if err != nil {
		return nil, "", remove, err
	}
	if caFile = c.caFile; caFile == "" {
		dir, err := os.MkdirTemp("", "loggregator-drain-*")
		if err != nil {
			return nil, "", remove, err
		}
		remove = func() { os.RemoveAll(dir) }
		caFile = filepath.Join(dir, "ca.pem")
	}
	if err := os.WriteFile(caFile, text, 0o644); err != nil {
		remove()
		return nil, "", func() {}, fmt.Errorf("-ca-file: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}, caFile, remove, nil
}

func (c *receiveConfig) announce(out *printer, r *receiver.Receiver, ca string) {
	out.say("Receiving at %s. Ctrl-C ends it.", r.Addr())
	out.say("  a drain for one application, in the file that -drains names:")
	out.say(`    {"drains": [{"app": "NAME", "url": "%s"}]}`, r.URL())
	if ca != "" {
		out.say("  the CA that the drain has to trust: %s", ca)
		out.say(`    (-drain-ca %s, or its text as "ca" in the drain's entry)`, ca)
	}
	if c.misbehave != "" {
		lasts := "always"
		if c.lasts > 0 {
			lasts = "for " + c.lasts.String()
		}
		out.say("  it misbehaves %s: %s", lasts, c.misbehave)
	}
}

// printer writes what a receiver reports, a line for each message and an
// indented one for each problem.
type printer struct {
	mu         sync.Mutex
	out        io.Writer
	raw, quiet bool
	count      uint64
	enough     func()
	line       []byte
}

func (p *printer) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, format+"\n", args...)
}

func (p *printer) print(m receiver.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line = p.line[:0]
	if m.Text != nil && (!p.quiet || len(m.Problems) > 0) {
		p.line = p.append(p.line, &m)
	}
	for _, problem := range m.Problems {
		p.line = fmt.Appendf(p.line, "  !! connection %d: %s\n", m.Conn, problem)
	}
	p.out.Write(p.line)
	if m.Text != nil && p.count > 0 {
		if p.count--; p.count == 0 {
			p.enough()
		}
	}
}

// append writes a message as one line, behind its connection's number and the
// time at which it came; raw, as it is.
func (p *printer) append(dst []byte, m *receiver.Message) []byte {
	text := strings.TrimSuffix(string(m.Text), "\n")
	if p.raw {
		return append(append(dst, text...), '\n')
	}
	dst = fmt.Appendf(dst, "#%d %s  ", m.Conn, m.Time.Format("15:04:05.000"))
	return append(append(dst, quoteControls(text)...), '\n')
}

// quoteControls keeps a message on one line, and a terminal from obeying it.
func quoteControls(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return '·'
		}
		return r
	}, s)
}
