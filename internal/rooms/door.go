package rooms

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/transport"
)

// door is an address at which the daemon listens, and how it is protected:
// by TLS 1.3, and by certificates that those who come must show.
type door struct {
	name, addr string
	files      transport.TLSFiles
	names      string // that a client's certificate may carry, with commas between

	// strict means that TLS alone is no protection: those who come must show who
	// they are.
	strict bool
	// guarded, if not nil, reports that something else tells who may come.
	guarded func() bool
	// foreign allows TLS 1.2: browsers and old clients come here, not daemons.
	foreign bool

	seen certificates
}

// door adds the flags of an address.
func (p *Process) door(name, addr, what string) *door {
	d := &door{name: name}
	fs := p.Flags
	fs.StringVar(&d.addr, name, addr, "`address` "+what+"; host:port or unix:///path, empty turns it off")
	fs.StringVar(&d.files.Cert, name+"-cert", "", "PEM `file` of a certificate: -"+name+" then takes TLS only. Changed files are read again")
	fs.StringVar(&d.files.Key, name+"-key", "", "PEM `file` of its key")
	fs.StringVar(&d.files.CA, name+"-clients", "", "PEM `file` of the CA that must have signed the certificates of those who come to -"+name+"; empty asks them for none")
	fs.StringVar(&d.names, name+"-client-names", "", "`names`, with commas between, of which their certificates must carry one; empty: any")
	p.certified(name, "-cert", "-key", "-clients")
	p.checks = append(p.checks, func() error {
		_, err := d.config()
		return errors.Join(err, daemon.CheckAddress(d.name, d.addr, p.insecure || d.protected()))
	})
	return d
}

// protected reports whether strangers are kept out.
func (d *door) protected() bool {
	if d.files.Cert == "" {
		return false
	}
	return !d.strict || d.files.CA != "" || d.guarded != nil && d.guarded()
}

// scheme is the one that clients use: of http and https, tcp and tls, or unix.
func (d *door) scheme(plain string) string {
	switch {
	case d.files.Cert == "":
		return plain
	case plain == "http":
		return "https"
	}
	return "tls"
}

// config is nil without TLS.
func (d *door) config() (*tls.Config, error) {
	flags := fmt.Sprintf("-%s-cert, -%[1]s-key, -%[1]s-clients", d.name)
	if d.files.Cert == "" && d.files.Key == "" && d.files.CA == "" {
		if d.names != "" {
			return nil, fmt.Errorf("-%s-client-names: nothing checks them without %s", d.name, flags)
		}
		return nil, nil
	}
	if d.names != "" && d.files.CA == "" {
		return nil, fmt.Errorf("-%s-client-names: nothing checks them without -%[1]s-clients", d.name)
	}
	config, err := d.files.Server()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flags, err)
	}
	version := uint16(tls.VersionTLS13)
	if d.foreign {
		version = tls.VersionTLS12
	}
	current := config.GetConfigForClient
	config.MinVersion = version
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c, err := current(hello)
		if err != nil {
			return nil, err
		}
		c.MinVersion = version
		if d.names != "" {
			c.VerifyConnection = func(s tls.ConnectionState) error { return d.known(s.PeerCertificates) }
		}
		return c, nil
	}
	return config, nil
}

// known says whether a client's certificate carries one of the names.
func (d *door) known(chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return errors.New("no certificate was shown")
	}
	names := carried(chain[0])
	for _, name := range names {
		if listed(d.names, name) {
			return nil
		}
	}
	return fmt.Errorf("the certificate is of %q, which -%s-client-names does not name", names, d.name)
}

// carried are the names in a certificate.
func carried(c *x509.Certificate) []string {
	names := slices.Clone(c.DNSNames)
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	if c.Subject.CommonName != "" {
		names = append(names, c.Subject.CommonName)
	}
	return names
}

// listed reports whether name is one of those with commas between.
func listed(names, name string) bool {
	for one := range strings.SplitSeq(names, ",") {
		if one = strings.TrimSpace(one); one != "" && one == name {
			return true
		}
	}
	return false
}

// open listens, with TLS if there are certificates: config is then to be used by
// the server. Without an address there is no listener.
func (p *Process) open(d *door) (ln net.Listener, config *tls.Config, err error) {
	d.files.Logger = p.Log
	if config, err = d.config(); err != nil {
		return nil, nil, err
	}
	if ln, err = p.listen(d); err != nil || ln == nil {
		return nil, nil, err
	}
	p.watch(d.name, &d.seen, d.files)
	return ln, config, nil
}

// serveHTTP serves with TLS if the server has a configuration for it.
func serveHTTP(s *http.Server, ln net.Listener) error {
	if s.TLSConfig != nil {
		return s.ServeTLS(ln, "", "")
	}
	return s.Serve(ln)
}

// dialer is how the daemon comes to others: by TLS 1.3, to names that their
// certificates must carry, showing a certificate of its own.
type dialer struct {
	prefix string // of the flags' names
	files  transport.TLSFiles
	seen   certificates
}

// dialer adds the flags of connections to other daemons; prefix begins their names,
// if it is not empty.
func (p *Process) dialer(prefix, whose string) *dialer {
	d := &dialer{}
	if prefix != "" {
		d.prefix = prefix + "-"
	}
	fs := p.Flags
	fs.StringVar(&d.files.CA, d.prefix+"ca", "", "PEM `file` of the CA of "+whose+"; default the system's")
	fs.StringVar(&d.files.Cert, d.prefix+"cert", "", "PEM `file` of the certificate to show to them. Changed files are read again")
	fs.StringVar(&d.files.Key, d.prefix+"key", "", "PEM `file` of its key")
	p.certified(d.prefix, "ca", "cert", "key")
	p.checks = append(p.checks, func() error {
		_, err := d.current()
		return err
	})
	return d
}

// current gives the configuration of each connection.
func (d *dialer) current() (func() *tls.Config, error) {
	current, err := d.files.Client()
	if err != nil {
		return nil, fmt.Errorf("-%sca, -%[1]scert, -%[1]skey: %w", d.prefix, err)
	}
	return func() *tls.Config {
		c := current()
		c.MinVersion = tls.VersionTLS13
		return c
	}, nil
}

// open is current, watched.
func (d *dialer) open(p *Process) (func() *tls.Config, error) {
	d.files.Logger = p.Log
	p.watch(d.prefix+"cert", &d.seen, d.files)
	return d.current()
}

// certificates are what TLS files held when they were looked at last.
type certificates struct{ cert, ca [sha256.Size]byte }

// watch has each reload say what has become of certificates. They are read again
// as connections are made; those that stand are not affected.
func (p *Process) watch(name string, seen *certificates, files transport.TLSFiles) {
	*seen, _, _ = look(files)
	p.reloads = append(p.reloads, func() string {
		now, until, err := look(files)
		was := *seen
		switch {
		case err != nil:
			return fmt.Sprintf("certificates of -%s stay as they are: %v", name, err)
		case now == was:
			return ""
		}
		*seen = now
		var what []string
		if now.cert != was.cert {
			what = append(what, "the certificate is a new one, valid until "+until.UTC().Format(time.RFC3339))
		}
		if now.ca != was.ca {
			what = append(what, "the CA is a new one")
		}
		return fmt.Sprintf("-%s: %s; for connections from now on", name, strings.Join(what, ", and "))
	})
}

// look reads the files, and says until when the certificate is valid.
func look(f transport.TLSFiles) (c certificates, until time.Time, err error) {
	if f.Cert != "" {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return c, until, err
		}
		c.cert = sha256.Sum256(pair.Certificate[0])
		until = pair.Leaf.NotAfter
	}
	if f.CA != "" {
		text, err := os.ReadFile(f.CA)
		if err != nil {
			return c, until, err
		}
		if block, _ := pem.Decode(text); block == nil {
			return c, until, fmt.Errorf("there is no certificate in %s", f.CA)
		}
		c.ca = sha256.Sum256(text)
	}
	return c, until, nil
}
