package drain

import (
	"context"
	"crypto/tls"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	// DefaultReplay is what Options.Replay is where the system does not tell how
	// much a receiver may hold, in bytes.
	DefaultReplay = 1 << 20
	// DefaultCatchUp is the default of Options.CatchUp, in bytes per second.
	DefaultCatchUp = 4 << 20
	// DefaultMaxAge and DefaultMaxIdle are the defaults of the options of these
	// names.
	DefaultMaxAge  = 10 * time.Minute
	DefaultMaxIdle = 4 * time.Minute
)

// Options of a drain or of a Set. The zero value and nil mean the defaults.
type Options struct {
	// TLS is for syslog-tls and https; nil means the system's roots and TLS 1.2
	// or newer. It is cloned, and the server's name is set to the URL's host if
	// it is empty.
	TLS *tls.Config

	// GetTLS is asked instead of TLS at every handshake, for certificates that
	// change while the drain runs. It must not block for long. An error fails the
	// attempt to connect.
	GetTLS func() (*tls.Config, error)

	// OmitTags leaves the tags out of messages, unless the URL says
	// disable-metadata=false.
	OmitTags bool

	// Token is the drain's token in Heroku's forms, "d." and a UUID by custom.
	// The default is made of the URL and what the drain selects, and is always
	// the same for both.
	Token string

	// Replay is how many bytes that the receiver's kernel has acknowledged are
	// sent again after a connection broke without an orderly close, because the
	// receiver's process may not have read them. Zero means as many as the
	// receiver can hold, by the windows it advertised (DefaultReplay where the
	// system does not tell); negative means none.
	Replay int

	// CatchUp bounds how fast a drain sends what has gathered while its receiver
	// was away for more than a second, in bytes per second, so that the receiver
	// survives its own return: at most this, or twice what the drain sends
	// normally if that is more. Zero means DefaultCatchUp, negative no bound.
	// Shutdown is not bounded.
	CatchUp int

	// Backoff is the pause before connecting again after the given number of
	// failures in a row, 0 for the first. Nil means up to 50 ms at first, then
	// doubling up to 30 s, of each a random part.
	Backoff func(failures int) time.Duration

	// MaxAge is how long a connection is used, give or take a fifth, so that
	// load balancers can spread drains and certificates are looked at; of HTTPS
	// half of that. Zero means DefaultMaxAge, negative for ever.
	MaxAge time.Duration

	// MaxIdle is how long a syslog connection stays open with nothing to send.
	// Zero means DefaultMaxIdle, negative for ever.
	MaxIdle time.Duration

	// Deny are networks to which no connection is made, checked for every
	// address at the moment it is dialled, see InternalNetworks. It is for
	// drains whose URLs come from tenants; the default is none, for those that
	// the operator sets. What Allow holds is not denied.
	Deny, Allow []netip.Prefix

	// Ports are the ranges of ports that drains may use, both ends included. Nil
	// means all.
	Ports [][2]uint16

	// LookupHost resolves names; nil means the system's resolver.
	LookupHost func(ctx context.Context, host string) ([]netip.Addr, error)

	// DialContext makes connections; nil means the package's own dialer, which
	// resolves the name, heeds Deny, Allow and Ports, starts with the next
	// address when one has not answered for 300 ms, and sets TCP keepalive. One
	// of your own has to do all that itself.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// Tell is given log records of source type LGR by which applications learn
	// in their own stream what befalls their drains: lines that were lost, a
	// receiver that cannot be reached, certificates that end soon; at most one
	// line in 30 s for each. Usually it is the router that the drain reads from.
	// Of drains that select everything nobody is told.
	Tell envelope.Writer

	// Logger is told of connects, failures and closes, with host and port but no
	// other part of a URL; nil means nobody is told.
	Logger *slog.Logger

	prepared bool    // by withDefaults
	own      *dialer // behind DialContext, if it is the package's own
}

func (o *Options) withDefaults() *Options {
	var c Options
	if o != nil {
		c = *o
	}
	c.TLS, c.prepared = hardened(c.TLS), true
	if c.CatchUp == 0 {
		c.CatchUp = DefaultCatchUp
	}
	if c.Backoff == nil {
		c.Backoff = backoff
	}
	if c.MaxAge == 0 {
		c.MaxAge = DefaultMaxAge
	}
	if c.MaxIdle == 0 {
		c.MaxIdle = DefaultMaxIdle
	}
	if c.DialContext == nil {
		c.own = newDialer(slices.Clone(c.Deny), slices.Clone(c.Allow), slices.Clone(c.Ports), c.LookupHost)
		c.DialContext = c.own.dial
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &c
}

// Cipher suites of TLS 1.2; those of 1.3 cannot be chosen. None has CBC.
var (
	suites = []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
	narrowSuites = []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384}
)

// hardened is a copy of config in which nothing is weaker than TLS 1.2 with
// authenticated encryption, unless config says so itself.
func hardened(config *tls.Config) *tls.Config {
	if config == nil {
		config = new(tls.Config)
	}
	c := config.Clone()
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	if c.CipherSuites == nil {
		c.CipherSuites = suites
	}
	return c
}

// tls is the configuration for one handshake with t.
func (o *Options) tls(t *target) (*tls.Config, error) {
	config := o.TLS
	if o.GetTLS != nil {
		c, err := o.GetTLS()
		if err != nil {
			return nil, err
		}
		config = hardened(c)
	} else {
		config = config.Clone()
	}
	if config.ServerName == "" {
		config.ServerName = t.host
	}
	if t.narrow {
		config.CipherSuites = narrowSuites
	}
	return config, nil
}

// backoff is half a heartbeat at first, because most receivers that close are
// back at once; then full jitter, so that a thousand drains don't return in the
// same moment.
func backoff(failures int) time.Duration {
	limit := 30 * time.Second
	if failures < 10 {
		limit = min(limit, 50*time.Millisecond<<failures)
	}
	return rand.N(limit)
}
