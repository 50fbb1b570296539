// Package drains is what the commands that have drains share: flags, and what
// operators are shown.
package drains

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cloudfoundry/loggregator/drain"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport"
)

// Flags are the flags of a command that has drains.
type Flags struct {
	// Shared, if not nil, is with whom the drains are shared; it is no flag.
	Shared *drain.Shared

	File, Positions         string
	CAPI, Cache             string
	askCert, askKey, askCA  string
	askInterval             time.Duration
	allow, ports            string
	drainCA, drainCert, key string
	perApp                  int
}

// Beside, as the value of -positions, is the file of the drains with
// ".positions" at its end.
const Beside = "beside"

// Register adds the flags to fs. positions is the default of -positions.
func (f *Flags) Register(fs *flag.FlagSet, positions string) {
	fs.StringVar(&f.File, "drains", "", "JSON `file` of drains, followed while running: "+`{"drains":[{"app":"shop","url":"syslog://host:514"}]}`)
	fs.StringVar(&f.CAPI, "drains-capi", "", "`URL` of a Cloud Controller to ask for the drains that applications are bound to, as https://cloud-controller:9023")
	fs.StringVar(&f.Cache, "drains-cache", "", "`URL` of a syslog binding cache to ask for the same, as https://binding-cache:9000")
	fs.StringVar(&f.askCert, "drains-cert", "", "PEM `file` of the certificate to show to these two")
	fs.StringVar(&f.askKey, "drains-key", "", "PEM `file` of its key")
	fs.StringVar(&f.askCA, "drains-ca", "", "PEM `file` of the CA of these two; default the system's")
	fs.DurationVar(&f.askInterval, "drains-interval", 15*time.Second, "how often they are asked, give or take a fifth")
	fs.StringVar(&f.allow, "drains-allow", "", "internal `networks` that their drains may reach all the same, with commas between, as 10.1.0.0/16; the drains of the file may reach everything")
	fs.StringVar(&f.ports, "drains-ports", "", "`ports` that their drains may use, with commas between, as 443,514,1024-65535; empty: all")
	fs.IntVar(&f.perApp, "drains-per-app", drain.DefaultPerApp, "how many drains they may name for one application; negative: any")
	fs.StringVar(&f.drainCA, "drain-ca", "", "PEM `file` of certificates that drains trust besides the system's. Changed files are read again")
	fs.StringVar(&f.drainCert, "drain-cert", "", "PEM `file` of the certificate that drains show to receivers that ask for one")
	fs.StringVar(&f.key, "drain-key", "", "PEM `file` of its key")
	fs.StringVar(&f.Positions, "positions", positions, "`file` in which the places of the drains are kept, so that they go on there after a restart; \"beside\" is the file of -drains with .positions at its end; empty: none")
}

// Named reports whether any provider of drains is named.
func (f *Flags) Named() bool { return f.File != "" || f.CAPI != "" || f.Cache != "" }

// Check says what is wrong with the flags, without opening or asking anything.
func (f *Flags) Check() error {
	_, allow := parseNetworks(f.allow)
	_, ports := parsePorts(f.ports)
	_, receivers := f.tls(slog.New(slog.DiscardHandler))
	_, ask := f.ask(slog.New(slog.DiscardHandler))
	errs := []error{allow, ports, receivers, ask}
	if f.File != "" {
		var list struct {
			Drains []json.RawMessage `json:"drains"`
		}
		text, err := os.ReadFile(f.File)
		if err == nil {
			err = json.Unmarshal(text, &list)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("-drains: drain: binding file: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Open opens the drains that the flags name. tell, if not nil, takes what
// applications are told of their drains.
func (f *Flags) Open(src envelope.Source, tell envelope.Writer, log *slog.Logger) (*drain.Set, error) {
	opts := &drain.Options{Tell: tell, Logger: log}
	var err error
	if opts.GetTLS, err = f.tls(log); err != nil {
		return nil, err
	}
	tenants := *opts
	tenants.Deny = drain.InternalNetworks()
	if tenants.Allow, err = parseNetworks(f.allow); err != nil {
		return nil, err
	}
	if tenants.Ports, err = parsePorts(f.ports); err != nil {
		return nil, err
	}
	set := &drain.SetOptions{Drains: opts, Tenants: &tenants, PerApp: f.perApp, Positions: f.PositionsFile(), Shared: f.Shared}
	var providers []*drain.Provider
	if f.File != "" {
		providers = append(providers, drain.File(f.File))
	}
	ask, err := f.ask(log)
	if err != nil {
		return nil, err
	}
	for _, server := range []struct {
		flag, url string
		make      func(string, *drain.AskOptions) (*drain.Provider, error)
	}{{"drains-capi", f.CAPI, drain.CAPI}, {"drains-cache", f.Cache, drain.BindingCache}} {
		if server.url == "" {
			continue
		}
		p, err := server.make(server.url, ask)
		if err != nil {
			return nil, fmt.Errorf("-%s: %w", server.flag, err)
		}
		providers = append(providers, p)
	}
	opened, err := drain.OpenSet(src, set, providers...)
	if err != nil {
		return nil, fmt.Errorf("-drains: %w", err)
	}
	return opened, nil
}

// PositionsFile is the file of -positions, or empty.
func (f *Flags) PositionsFile() string {
	switch {
	case f.Shared != nil: // places are kept at the servers
		return ""
	case f.Positions != Beside:
		return f.Positions
	case f.File != "":
		return f.File + ".positions"
	}
	return ""
}

// ask is how the Cloud Controller and the binding cache are asked.
func (f *Flags) ask(log *slog.Logger) (*drain.AskOptions, error) {
	if f.askInterval <= 0 {
		return nil, errors.New("-drains-interval must be more than 0")
	}
	files := transport.TLSFiles{Cert: f.askCert, Key: f.askKey, CA: f.askCA, Logger: log}
	current, err := files.Client()
	if err != nil {
		return nil, fmt.Errorf("-drains-cert, -drains-key, -drains-ca: %w", err)
	}
	t := &http.Transport{
		// Asked for each connection, so that certificates can be replaced.
		DialTLSContext:        dialTLS(current),
		ResponseHeaderTimeout: 30 * time.Second,
		IdleConnTimeout:       time.Minute,
	}
	return &drain.AskOptions{Interval: f.askInterval, HTTP: &http.Client{Transport: t, Timeout: time.Minute}}, nil
}

func parseNetworks(s string) (list []netip.Prefix, err error) {
	if s == "" {
		return nil, nil
	}
	for item := range strings.SplitSeq(s, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(item))
		if err != nil {
			ip, err := netip.ParseAddr(strings.TrimSpace(item))
			if err != nil {
				return nil, fmt.Errorf("-drains-allow: %q is no network like 10.1.0.0/16", item)
			}
			p = netip.PrefixFrom(ip, ip.BitLen())
		}
		list = append(list, p)
	}
	return list, nil
}

func parsePorts(s string) (list [][2]uint16, err error) {
	if s == "" {
		return nil, nil
	}
	for item := range strings.SplitSeq(s, ",") {
		from, to, ok := strings.Cut(strings.TrimSpace(item), "-")
		if !ok {
			to = from
		}
		low, err1 := strconv.ParseUint(from, 10, 16)
		high, err2 := strconv.ParseUint(to, 10, 16)
		if err1 != nil || err2 != nil || low > high {
			return nil, fmt.Errorf("-drains-ports: %q is no port like 443 and no range like 1024-65535", item)
		}
		list = append(list, [2]uint16{uint16(low), uint16(high)})
	}
	return list, nil
}
