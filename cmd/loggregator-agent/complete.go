package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/cloudfoundry/loggregator/internal/follow"
)

// complete fills in defaults and says what is wrong, one error each.
func (c *config) complete(w where) (errs []error) {
	bad := func(key string, i int, err error) {
		if err != nil {
			errs = append(errs, &atLine{w.line(key, i), err})
		}
	}
	if len(c.Servers) == 0 {
		c.Servers = []string{defaultServer}
	}
	if err := checkServers(strings.Join(c.Servers, ",")); err != nil {
		_, says, _ := strings.Cut(err.Error(), ": ") // without the package
		bad("servers", -1, errors.New(says))
	}
	bad("tls", -1, c.TLS.check(false))
	c.Memory = cmp.Or(c.Memory, defaultMemory)
	if c.Memory < 1<<20 {
		bad("memory", -1, errors.New("memory: at least 1 MiB"))
	}
	if c.MaxOpen < 0 {
		bad("max_open_files", -1, errors.New("max_open_files: at least 1"))
	}
	bad("log", -1, c.Log.check())
	c.Grace = cmp.Or(c.Grace, duration(defaultGrace))
	if c.Ops != "" {
		bad("ops", -1, c.listenable(address{"http", c.Ops}, false))
	}
	for i := range c.Files {
		f := &c.Files[i]
		f.Name = cmp.Or(f.Name, fmt.Sprint("files ", i+1))
		bad("files", i, f.check())
	}
	for i := range c.Sockets {
		s := &c.Sockets[i]
		s.Name = cmp.Or(s.Name, fmt.Sprint("sockets ", i+1))
		bad("sockets", i, s.check())
	}
	for i, n := range c.Native {
		bad("native", i, cmp.Or(
			n.Listen.oneOf("tcp", "tls", "unix", "udp"), n.TLS.matches(n.Listen), c.listenable(n.Listen, n.TLS.CA != "" || n.Secrets != "")))
		if n.Secrets != "" && n.Listen.scheme != "udp" {
			bad("native", i, errors.New("secrets_file is for udp://, where datagrams are signed"))
		}
	}
	for i := range c.Syslog {
		s := &c.Syslog[i]
		s.Name = cmp.Or(s.Name, fmt.Sprint("syslog ", i+1))
		bad("syslog", i, cmp.Or(
			s.Listen.oneOf("tcp", "tls", "unix", "udp", "unixgram"), s.TLS.matches(s.Listen), c.listenable(s.Listen, s.TLS.CA != ""),
			s.Limit.check(), s.ruleConfig.check(append(slices.Clone(syslogVars), "source_id"))))
	}
	for i := range c.Logplex {
		l := &c.Logplex[i]
		l.Name = cmp.Or(l.Name, fmt.Sprint("logplex ", i+1))
		bad("logplex", i, cmp.Or(
			l.Listen.oneOf("http", "https"), l.TLS.matches(l.Listen), c.listenable(l.Listen, l.TLS.CA != "" || l.Tokens != "" && l.Listen.scheme == "https"),
			l.Limit.check(), l.ruleConfig.check(append(slices.Clone(logplexVars), "source_id"))))
	}
	for i := range c.Dropsonde {
		d := &c.Dropsonde[i]
		bad("dropsonde", i, cmp.Or(d.Listen.oneOf("udp"), c.listenable(d.Listen, d.Secrets != ""), d.Limit.check()))
	}
	for i, g := range c.GRPC {
		bad("grpc", i, cmp.Or(
			g.Listen.oneOf("tcp", "tls", "unix"), g.TLS.matches(g.Listen), c.listenable(g.Listen, g.TLS.CA != ""), g.Limit.check()))
	}
	errs = append(errs, c.conflicts(w)...)
	if len(c.Files) > 0 && c.State == "" {
		bad("files", -1, errors.New("files need a directory in which their positions are kept: say state: /var/lib/loggregator-agent"))
	}
	if len(errs) == 0 && len(c.Files)+len(c.Sockets)+len(c.Native)+len(c.Syslog)+len(c.Logplex)+len(c.Dropsonde)+len(c.GRPC) == 0 {
		bad("", -1, errors.New("nothing is collected: name files, sockets, native, syslog, logplex, dropsonde or grpc"))
	}
	return errs
}

// conflicts finds addresses that two listeners want.
func (c *config) conflicts(w where) (errs []error) {
	seen := make(map[string]bool)
	check := func(key string, i int, a address) {
		network := a.network()
		if seen[network+a.place] && !strings.HasSuffix(a.place, ":0") {
			errs = append(errs, &atLine{w.line(key, i), fmt.Errorf("%s is listened at already", a)})
		}
		seen[network+a.place] = true
	}
	if c.Ops != "" {
		check("ops", -1, address{"http", c.Ops})
	}
	for i, n := range c.Native {
		check("native", i, n.Listen)
	}
	for i, s := range c.Syslog {
		check("syslog", i, s.Listen)
	}
	for i, l := range c.Logplex {
		check("logplex", i, l.Listen)
	}
	for i, d := range c.Dropsonde {
		check("dropsonde", i, d.Listen)
	}
	for i, g := range c.GRPC {
		check("grpc", i, g.Listen)
	}
	return errs
}

// network is that of package net.
func (a address) network() string {
	switch a.scheme {
	case "tls", "http", "https":
		return "tcp"
	}
	return a.scheme
}

func (a address) oneOf(schemes ...string) error {
	if a.scheme == "" {
		return fmt.Errorf("say where to listen: listen: %s://…", schemes[0])
	}
	if !slices.Contains(schemes, a.scheme) {
		return fmt.Errorf("%s: the address must begin with %s://", a, strings.Join(schemes, ":// or "))
	}
	return nil
}

// listenable refuses to listen beyond this machine for anybody.
func (c *config) listenable(a address, protected bool) error {
	if a.network() != "tcp" && a.network() != "udp" {
		return nil
	}
	host, port, err := net.SplitHostPort(a.place)
	if err != nil || port == "" {
		return fmt.Errorf("%q is not host:port", a.place)
	}
	if c.Insecure || protected || host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%s can be reached from other machines, and nothing says who may send; listen on 127.0.0.1, have clients show certificates (tls: {ca: …}), or say insecure: true if the network keeps strangers out", a.place)
}

func (t tlsConfig) check(server bool) error {
	if (t.Cert == "") != (t.Key == "") {
		return errors.New("tls: cert and key go together")
	}
	if server && t.Cert == "" {
		return errors.New("tls: a listener needs cert and key")
	}
	return nil
}

// matches sees whether TLS is there where the address says so, and only there.
func (t tlsConfig) matches(a address) error {
	if a.scheme == "tls" || a.scheme == "https" {
		return t.check(true)
	}
	if t != (tlsConfig{}) {
		return fmt.Errorf("%s has no TLS; write %s", a, map[string]string{"http": "https://"}[a.scheme]+"tls:// to have it")
	}
	return nil
}

func (l limitConfig) check() error {
	if l.Burst != 0 && l.Rate == 0 {
		return errors.New("limit: say a rate, in bytes a second, with the burst")
	}
	return nil
}

func (f *filesConfig) check() error {
	if len(f.Paths) == 0 {
		return errors.New("say which files: paths: /var/log/{app}.log")
	}
	switch f.Start {
	case "", "beginning", "end":
	default:
		return fmt.Errorf("start: %q; it is beginning or end", f.Start)
	}
	switch f.Stream {
	case "", "out", "err":
	default:
		return fmt.Errorf("stream: %q; it is out or err", f.Stream)
	}
	if f.MaxLine < 0 || f.MaxLine > 1<<20 {
		return errors.New("max_line: at most 1MiB")
	}
	join := f.join()
	if join == nil && f.Join != (joinConfig{}) {
		return errors.New("join: say by which rule: start: PATTERN, continue: PATTERN or indent: true")
	}
	if err := join.Check(); err != nil {
		return err
	}
	return cmp.Or(f.Limit.check(), f.checkVars(f.Paths, f.Match))
}

// join is the rule by which lines are joined; nil for none.
func (f *filesConfig) join() *follow.Join {
	j := f.Join
	if j.Start == nil && j.Continue == nil && !j.Indent {
		return nil
	}
	join := &follow.Join{Indent: j.Indent, MaxBytes: int(j.MaxBytes), MaxLines: j.MaxLines, Wait: j.Wait.std()}
	if j.Start != nil {
		join.Start = j.Start.Regexp
	}
	if j.Continue != nil {
		join.Continue = j.Continue.Regexp
	}
	return join
}

// checkVars sees whether the rule can do with what each of the paths tells.
func (r *ruleConfig) checkVars(paths patterns, match *pattern) error {
	for _, p := range paths {
		known := p.Names()
		if match != nil {
			for _, name := range match.SubexpNames() {
				if name != "" {
					known = append(known, name)
				}
			}
		}
		if err := r.check(known); err != nil {
			return err
		}
	}
	return nil
}

func (s *socketsConfig) check() error {
	if (len(s.Dirs) == 0) == (s.Instances == "") {
		return errors.New("say where the sockets are: directories: /run/containers/{app}/{instance}, or instances: the file in which a DEA says what it runs")
	}
	if s.MaxLine < 0 || s.MaxLine > 1<<20 {
		return errors.New("max_line: at most 1MiB")
	}
	if s.Instances != "" {
		return cmp.Or(s.Limit.check(), s.ruleConfig.check(instanceVars))
	}
	return cmp.Or(s.Limit.check(), s.checkVars(s.Dirs, s.Match))
}
