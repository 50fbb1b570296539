// Package authorizers is what the commands that let people read share: flags that
// say who may read what.
package authorizers

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/access/cloudfoundry"
	"github.com/cloudfoundry/loggregator/transport/access/oidc"
)

// Flags are the flags of a command that lets people read.
type Flags struct {
	Recheck time.Duration // access.Options.Recheck

	tokens                         string
	issuer, audiences, rules, user string
	capi, uaa, uaaIssuer, ca       string
	origins, hosts                 string
	audit                          bool
}

// Register adds the flags to fs.
func (f *Flags) Register(fs *flag.FlagSet) {
	fs.StringVar(&f.tokens, "auth-tokens", "", "JSON `file` of tokens' hashes, and what each may read, read again when it changes: "+`{"tokens":[{"user":"ann","sha256":"…","read":[{"app":"shop"}]}]}`)
	fs.StringVar(&f.issuer, "auth-oidc", "", "`URL` of an OpenID Connect issuer whose tokens let read, to the letter as they name it")
	fs.StringVar(&f.audiences, "auth-oidc-audience", "", "`audiences`, with commas between, of which such a token must have one")
	fs.StringVar(&f.rules, "auth-oidc-rules", "", "JSON `file` of what such tokens' claims let read: "+`{"rules":[{"claim":"groups","value":"shop-dev","read":[{"app":"shop"}]}]}`)
	fs.StringVar(&f.user, "auth-oidc-user", "sub", "`claim` that names the user, one that users cannot choose")
	fs.StringVar(&f.capi, "auth-cf", "", "`URL` of a Cloud Foundry's API, as https://api.sys.example.com: its users read what they may see there")
	fs.StringVar(&f.uaa, "auth-uaa", "", "`URL` of its UAA, as https://uaa.sys.example.com")
	fs.StringVar(&f.uaaIssuer, "auth-uaa-issuer", "", "what the UAA's tokens name as their `issuer`; default -auth-uaa with /oauth/token behind")
	fs.StringVar(&f.ca, "auth-ca", "", "PEM `file` of the CA of these servers; default the system's")
	fs.DurationVar(&f.Recheck, "auth-recheck", access.DefaultRecheck, "about how often those who follow are checked again, so that rights which are taken back end what has begun; negative: never")
	fs.BoolVar(&f.audit, "audit", false, "log each decision about who reads what")
	fs.StringVar(&f.origins, "http-origins", "", "`hosts`, with commas between and as *.example.com, whose web pages may open WebSockets at -http; default its own")
	fs.StringVar(&f.hosts, "http-hosts", "", "`names`, with commas between, by which -http on loopback may be asked for without a token, besides localhost and its address")
}

// Named reports whether the flags say who may read. If not, everybody may.
func (f *Flags) Named() bool { return f.tokens != "" || f.issuer != "" || f.capi != "" }

// Origins are those of -http-origins.
func (f *Flags) Origins() []string { return list(f.origins) }

// Hosts are those of -http-hosts.
func (f *Flags) Hosts() []string { return list(f.hosts) }

// Audit is where decisions are written: log, or nil.
func (f *Flags) Audit(log *slog.Logger) *slog.Logger {
	if !f.audit {
		return nil
	}
	return log
}

// Check reports what is wrong with the flags by themselves.
func (f *Flags) Check() error {
	named := 0
	for _, v := range []string{f.tokens, f.issuer, f.capi} {
		if v != "" {
			named++
		}
	}
	switch {
	case named > 1:
		return errors.New("-auth-tokens, -auth-oidc and -auth-cf exclude each other: give one of them")
	case f.issuer != "" && (f.audiences == "" || f.rules == ""):
		return errors.New("-auth-oidc needs -auth-oidc-audience and -auth-oidc-rules, else it lets nobody read")
	case f.issuer == "" && (f.audiences != "" || f.rules != ""):
		return errors.New("-auth-oidc-audience and -auth-oidc-rules go with -auth-oidc")
	case (f.capi == "") != (f.uaa == ""):
		return errors.New("-auth-cf and -auth-uaa go together")
	case f.Recheck == 0:
		return errors.New("-auth-recheck must be more than 0, or negative")
	case f.uaaIssuer != "" && f.uaa == "":
		return errors.New("-auth-uaa-issuer goes with -auth-uaa")
	}
	return nil
}

// Open makes the Authorizer that the flags name; nil if they name none. It asks
// nobody yet.
func (f *Flags) Open(log *slog.Logger) (access.Authorizer, error) {
	if err := f.Check(); err != nil {
		return nil, err
	}
	config, err := f.tls()
	if err != nil {
		return nil, err
	}
	switch {
	case f.tokens != "":
		a, err := access.OpenTokens(f.tokens, &access.TokensOptions{Logger: log})
		if err != nil {
			return nil, fmt.Errorf("-auth-tokens: %w", err)
		}
		return a, nil
	case f.issuer != "":
		rules, err := oidc.ReadRules(f.rules)
		if err != nil {
			return nil, fmt.Errorf("-auth-oidc-rules: %w", err)
		}
		a, err := oidc.New(f.issuer, list(f.audiences), rules, &oidc.Options{UserClaim: f.user, TLS: config})
		if err != nil {
			return nil, fmt.Errorf("-auth-oidc: %w", err)
		}
		return a, nil
	case f.capi != "":
		a, err := cloudfoundry.New(f.capi, f.uaa, &cloudfoundry.Options{Issuer: f.uaaIssuer, TLS: config})
		if err != nil {
			return nil, fmt.Errorf("-auth-cf, -auth-uaa: %w", err)
		}
		return a, nil
	}
	return nil, nil
}

// tls is what the servers that are asked must show; nil is the default.
func (f *Flags) tls() (*tls.Config, error) {
	if f.ca == "" {
		return nil, nil
	}
	text, err := os.ReadFile(f.ca)
	if err != nil {
		return nil, fmt.Errorf("-auth-ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("-auth-ca: there is no certificate in %s", f.ca)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// list is what stands between commas.
func list(s string) []string {
	var items []string
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}
