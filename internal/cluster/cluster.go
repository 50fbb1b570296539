// Package cluster runs all the daemons as a deployment has them, two of each, on
// one machine: with certificates between them, made for the purpose, and a
// stand-in for a Cloud Foundry that says who may read what.
//
//	programs → agent-1, agent-2 → server-1, server-2 → sink-1, sink-2   → people
//	                                                 → drain-1, drain-2 → receivers
package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cloudfoundry/loggregator/internal/certs"
	"github.com/cloudfoundry/loggregator/internal/freeport"
)

// Options say what a Cluster is made of.
type Options struct {
	Bin    string // directory of the commands, and of cf, the stand-in
	Dir    string // for certificates, files and what the daemons say
	Drains string // file of drains; empty: no drain servers
	World  string // file of users and what they may read; empty: the stand-in's own

	// Via, if not nil, returns the address by which others reach what listens at
	// addr: a way that can be cut.
	Via func(daemon, addr string) string

	// Flags are more flags, by the daemon's name without its number.
	Flags map[string][]string
}

// Cluster is the daemons.
type Cluster struct {
	Agents, Servers, Sinks, Drains []*Daemon

	CF *Daemon // the stand-in

	Programs []string // where programs send: an address for each agent
	People   []string // where people read: a URL for each sink
	API      string   // URL of the stand-in
}

// number is how many there are of each daemon.
const number = 2

// Start starts everything and returns when all are ready. What runs already is
// stopped if something else does not start.
func Start(o *Options) (*Cluster, error) {
	c := &Cluster{}
	if err := c.start(o); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

func (c *Cluster) start(o *Options) error {
	ca, err := certs.New(o.Dir)
	if err != nil {
		return err
	}
	// Each kind of daemon has a certificate of its name.
	tls := make(map[string][2]string)
	for _, kind := range []string{"agent", "server", "sink", "drain"} {
		cert, key, err := ca.Issue(kind)
		if err != nil {
			return err
		}
		tls[kind] = [2]string{cert, key}
	}
	door := func(name, addr string, clients string) []string {
		return []string{"-" + name, addr, "-" + name + "-cert", tls["server"][0], "-" + name + "-key", tls["server"][1],
			"-" + name + "-clients", ca.File(), "-" + name + "-client-names", clients}
	}
	to := func(prefix, kind string) []string {
		return []string{"-" + prefix + "ca", ca.File(), "-" + prefix + "cert", tls[kind][0], "-" + prefix + "key", tls[kind][1]}
	}
	via := func(name, addr string) string {
		if o.Via == nil {
			return addr
		}
		return o.Via(name, addr)
	}
	add := func(to *[]*Daemon, kind string, i int, args ...string) string {
		d := &Daemon{Name: fmt.Sprintf("%s-%d", kind, i+1), path: filepath.Join(o.Bin, "loggregator-"+kind), ops: freeport.Addr()}
		d.Log = filepath.Join(o.Dir, d.Name+".log")
		if kind != "agent" {
			args = append(args, "-ops", d.ops)
		}
		d.args = append(args, o.Flags[kind]...)
		*to = append(*to, d)
		return d.ops
	}

	api := freeport.Addr()
	c.API = "http://" + api
	c.CF = &Daemon{Name: "cf", Log: filepath.Join(o.Dir, "cf.log"), path: filepath.Join(o.Bin, "cf"), args: []string{"-listen", api}}
	if o.World != "" {
		c.CF.args = append(c.CF.args, "-world", o.World)
	}

	var ingest, egress, share []string
	for i := range number {
		in, out, group := freeport.Addr(), freeport.Addr(), freeport.Addr()
		args := slices.Concat(door("ingest", in, "agent,drain"), door("egress", out, "sink,drain"), door("share", group, "drain"))
		file := filepath.Join(o.Dir, fmt.Sprintf("server-%d.shares", i+1))
		add(&c.Servers, "server", i, append(args, "-share-file", file, "-ingest-udp=", "-v1-udp=", "-grpc=")...)
		share = append(share, "https://"+via("share", group))
		ingest = append(ingest, "tls://"+via("ingest", in))
		egress = append(egress, "tls://"+via("egress", out))
	}
	read := append([]string{"-read", strings.Join(egress, ",")}, to("read-", "sink")...)
	for i := range number {
		people := freeport.Addr()
		add(&c.Sinks, "sink", i, append(slices.Clip(read), "-http", people, "-grpc=", "-auth-cf", c.API, "-auth-uaa", c.API)...)
		c.People = append(c.People, "http://"+people)
	}
	if o.Drains != "" {
		args := slices.Concat([]string{"-read", strings.Join(egress, ",")}, to("read-", "drain"),
			[]string{"-server", strings.Join(ingest, ",")}, to("", "drain"),
			[]string{"-drains", o.Drains, "-group", "drains", "-group-at", strings.Join(share, ",")})
		for i := range number {
			add(&c.Drains, "drain", i, args...)
		}
	}
	for i := range number {
		native, config := freeport.Addr(), filepath.Join(o.Dir, fmt.Sprintf("agent-%d.yaml", i+1))
		ops := add(&c.Agents, "agent", i, "daemon", config)
		text, err := json.Marshal(map[string]any{ // YAML enough
			"servers": ingest, "ops": ops, "memory": "64MiB", "memory_dir": filepath.Join(o.Dir, fmt.Sprintf("agent-%d-memory", i+1)), "state": filepath.Join(o.Dir, fmt.Sprintf("agent-%d", i+1)),
			"tls":    map[string]string{"ca": ca.File(), "cert": tls["agent"][0], "key": tls["agent"][1]},
			"native": []any{map[string]string{"listen": "tcp://" + native}},
		})
		if err != nil {
			return err
		}
		if err := os.WriteFile(config, text, 0o600); err != nil {
			return err
		}
		c.Programs = append(c.Programs, "tcp://"+native)
	}

	if err := each(c.All(), (*Daemon).Start); err != nil {
		return err
	}
	return each(c.All()[1:], func(d *Daemon) error { return d.await(30 * time.Second) })
}

// All is the daemons, in the order in which the logs do not flow.
func (c *Cluster) All() []*Daemon {
	all := []*Daemon{c.CF}
	for _, some := range [][]*Daemon{c.Servers, c.Sinks, c.Drains, c.Agents} {
		all = append(all, some...)
	}
	return all
}

// Stop stops all that run, in the direction of flow, and waits for them.
func (c *Cluster) Stop() error {
	end := func(d *Daemon) error { _, err := d.Stop(syscall.SIGTERM, 30*time.Second); return err }
	return errors.Join(each(c.Agents, end), each(c.Drains, end), each(c.Sinks, end), each(c.Servers, end), each([]*Daemon{c.CF}, end))
}

// Token logs a user in at the stand-in and returns the token.
func (c *Cluster) Token(user, password string) (string, error) {
	resp, err := http.PostForm(c.API+"/oauth/token", url.Values{"grant_type": {"password"}, "username": {user}, "password": {password}})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Token == "" {
		return "", fmt.Errorf("%s gave %s no token: %s", c.API, user, resp.Status)
	}
	return answer.Token, nil
}
