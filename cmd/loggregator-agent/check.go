package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/follow"
	"github.com/cloudfoundry/loggregator/transport"
	"github.com/cloudfoundry/loggregator/transport/logplexin"
	"github.com/cloudfoundry/loggregator/transport/syslogin"
)

const checkHelp = `Usage: loggregator-agent check CONFIG

Says what the daemon would collect with this file: which files and sockets there
are now, and whose lines theirs would be. It changes nothing and sends nothing.
Exit status 0 if all is well, 1 if something would not work.
`

// maxShown bounds how many files of an entry are listed.
const maxShown = 20

// runCheck is the command check.
func runCheck(args []string, std stdio) error {
	path, err := configPath("check", checkHelp, args, std)
	if err != nil {
		return err
	}
	c, err := loadConfig(path)
	if err != nil {
		fmt.Fprintln(std.err, err)
		return &daemon.Exit{Code: 1}
	}
	k := &checker{config: c, out: std.out}
	k.check()
	if k.wrong > 0 {
		return &daemon.Exit{Code: 1, Err: fmt.Errorf("%s: what is marked with ! would not work", path)}
	}
	fmt.Fprintf(std.out, "%s is in order.\n", path)
	return nil
}

// checker says what a config would collect.
type checker struct {
	config *config
	out    io.Writer
	wrong  int
}

func (k *checker) say(format string, args ...any) { fmt.Fprintf(k.out, format+"\n", args...) }

// bad tells what would not work, if anything.
func (k *checker) bad(err error) {
	if err != nil {
		k.wrong++
		k.say("  ! %v", err)
	}
}

func (k *checker) check() {
	c := k.config
	for _, s := range c.Servers {
		k.say("send to %s", s)
	}
	if c.TLS != (tlsConfig{}) {
		_, err := transport.TLSFiles{CA: c.TLS.CA, Cert: c.TLS.Cert, Key: c.TLS.Key}.Client()
		k.bad(err)
	}
	for _, dir := range []string{c.State, c.Dir} {
		if dir != "" {
			k.bad(writable(dir))
		}
	}
	for i := range c.Files {
		k.files(&c.Files[i])
	}
	for i := range c.Sockets {
		k.sockets(&c.Sockets[i])
	}
	for _, n := range c.Native {
		k.say("native at %s: records say themselves whose they are", n.Listen)
		k.tls(n.TLS)
		_, err := readSecrets(n.Secrets)
		k.bad(err)
	}
	for _, s := range c.Syslog {
		k.say("syslog at %s", s.Listen)
		k.tls(s.TLS)
		from := syslogin.Origin{Remote: "192.0.2.1", Hostname: "HOST", AppName: "PROGRAM", ProcID: "123"}
		id, ok := from.Identity()
		r := &rule{s.ruleConfig, c.Tags}
		k.example("a message of PROGRAM on HOST", r, r.over(id, ok, syslogOrigin(from)))
	}
	for _, l := range c.Logplex {
		k.say("logplex at %s", l.Listen)
		k.tls(l.TLS)
		_, err := readTokens(l.Tokens)
		k.bad(err)
		from := logplexin.Origin{DrainToken: "TOKEN", Hostname: "host", AppName: "app", ProcID: "web.1"}
		id, ok := from.Identity()
		r := &rule{l.ruleConfig, c.Tags}
		k.example("a message of web.1 with TOKEN", r, r.over(id, ok, logplexOrigin(from)))
	}
	for _, g := range c.GRPC {
		k.say("gRPC at %s: records say themselves whose they are", g.Listen)
		k.tls(g.TLS)
	}
	for _, d := range c.Dropsonde {
		k.say("dropsonde at %s: records say themselves whose they are", d.Listen)
		_, err := readSecrets(d.Secrets)
		k.bad(err)
	}
}

func (k *checker) tls(t tlsConfig) {
	_, err := t.server(nil)
	k.bad(err)
}

func (k *checker) example(of string, r *rule, vars map[string]string) {
	id, err := r.identity(vars)
	if err != nil {
		k.bad(fmt.Errorf("%s: %w", of, err))
		return
	}
	k.say("  %s: %s", of, describe(id))
}

func (k *checker) files(f *filesConfig) {
	g, _ := k.config.group(f, nil)
	matches := follow.Find(g)
	k.say("%s: %s", f.Name, count(len(matches), "file", "now"))
	for i, m := range matches {
		if i == maxShown {
			k.say("  and %d more", len(matches)-i)
			break
		}
		file, err := os.Open(m.Path)
		if err != nil {
			k.bad(err)
			continue
		}
		file.Close()
		k.identity("", m.Path, g, m.Vars)
	}
	if len(matches) > 0 {
		return
	}
	for _, p := range f.Paths {
		path := p.Example()
		if vars, ok := g.MatchPath(path); ok {
			k.identity("as an example, ", path, g, vars)
		} else {
			k.say("  %s", p)
		}
	}
}

func (k *checker) identity(prefix, path string, g *follow.Group, vars map[string]string) {
	id, stream, err := g.Identify(path, vars)
	if err != nil {
		k.bad(fmt.Errorf("%s%s: %w", prefix, path, err))
		return
	}
	k.say("  %s%s: %s, %s", prefix, path, stream, describe(id))
}

func (k *checker) sockets(s *socketsConfig) {
	targets, err := k.config.targets(s)
	k.say("%s: %s", s.Name, count(len(targets), "socket", "now"))
	k.bad(err)
	for i, t := range targets {
		if i == maxShown {
			k.say("  and %d more", len(targets)-i)
			break
		}
		k.say("  %s: %s, %s", t.Path, t.Type, describe(t.Identity))
	}
	if len(targets) > 0 {
		return
	}
	r := &rule{s.ruleConfig, k.config.Tags}
	if s.Instances != "" {
		k.example("as an example, instance 0 of APP", r, map[string]string{"app": "APP", "instance": "0", "source_type": "APP"})
	}
	for _, p := range s.Dirs {
		dir := p.Example()
		vars, err := withMatch(s.Match, dir, p.ExampleVars())
		if err == nil {
			k.example("as an example, "+dir, r, vars)
		}
	}
}

func count(n int, what, when string) string {
	switch n {
	case 0:
		return fmt.Sprintf("no %s is there %s", what, when)
	case 1:
		return fmt.Sprintf("1 %s is there %s", what, when)
	}
	return fmt.Sprintf("%d %ss are there %s", n, what, when)
}

// writable reports whether files can be made in a directory, or the directory.
func writable(dir string) error {
	for parent := dir; ; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		if errors.Is(err, os.ErrNotExist) && parent != filepath.Dir(parent) {
			continue
		}
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is no directory", parent)
		}
		if err != nil {
			return fmt.Errorf("a directory is wanted that can be written: %w", err)
		}
		f, err := os.CreateTemp(parent, ".check-*")
		if err != nil {
			return fmt.Errorf("a directory is wanted that can be written: %w", err)
		}
		f.Close()
		return os.Remove(f.Name())
	}
}
