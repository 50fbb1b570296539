package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// TLSFiles names the PEM files of one end of TLS connections. They are looked at
// again as connections are made, at most once a second, and read again when they
// have changed, so that certificates can be replaced while everything runs.
// Connections that stand are not affected. Files that cannot be read then, or do
// not fit together yet, are logged and change nothing.
type TLSFiles struct {
	// Cert and Key are this end's certificate, with its chain, and its private
	// key. A server must have them; a client shows them to servers that ask.
	Cert, Key string

	// CA holds the certificates that sign those of the other end. A server that
	// has it lets only clients in that show such a certificate. A client without
	// it trusts what the system trusts.
	CA string

	// Logger hears when files were read again, and when that failed. Nil
	// discards.
	Logger *slog.Logger
}

// ErrTLSFiles means that what a TLS end needs is not given.
var ErrTLSFiles = errors.New("transport: TLS needs both a certificate and its key")

// Server is the configuration of a Server that reads f.
func (f TLSFiles) Server() (*tls.Config, error) {
	if f.Cert == "" || f.Key == "" {
		return nil, ErrTLSFiles
	}
	files, err := openTLSFiles(f)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Links last; a session resumed would be one that was verified with
		// certificates of earlier.
		SessionTicketsDisabled: true,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			now := files.current()
			c := &tls.Config{MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true, Certificates: []tls.Certificate{*now.cert}}
			if now.roots != nil {
				c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, now.roots
			}
			return c, nil
		},
	}, nil
}

// Client gives the configuration of each connection of a Link, for
// LinkOptions.CurrentTLS.
func (f TLSFiles) Client() (func() *tls.Config, error) {
	if (f.Cert == "") != (f.Key == "") {
		return nil, ErrTLSFiles
	}
	files, err := openTLSFiles(f)
	if err != nil {
		return nil, err
	}
	return func() *tls.Config {
		now := files.current()
		c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: now.roots}
		if now.cert != nil {
			c.Certificates = []tls.Certificate{*now.cert}
		}
		return c
	}, nil
}

// tlsFiles is TLSFiles as last read.
type tlsFiles struct {
	TLSFiles

	mu     sync.Mutex
	looked time.Time
	stamp  [3]stamp
	now    tlsParts
}

type tlsParts struct {
	cert  *tls.Certificate // nil if there is none
	roots *x509.CertPool   // nil if there is no CA
}

// stamp tells whether a file has changed.
type stamp struct {
	modified time.Time
	size     int64
}

func openTLSFiles(f TLSFiles) (*tlsFiles, error) {
	if f.Logger == nil {
		f.Logger = slog.New(slog.DiscardHandler)
	}
	files := &tlsFiles{TLSFiles: f, looked: time.Now(), stamp: f.stamps()}
	var err error
	files.now, err = f.read()
	return files, err
}

func (f *tlsFiles) current() tlsParts {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.looked) < time.Second {
		return f.now
	}
	f.looked = time.Now()
	stamp := f.stamps()
	if stamp == f.stamp {
		return f.now
	}
	f.stamp = stamp // failed or not: one line for each change
	now, err := f.read()
	if err != nil {
		f.Logger.Warn("TLS files have changed and cannot be used; going on with what was read before", "error", err.Error())
		return f.now
	}
	f.Logger.Info("TLS files read again", "cert", f.Cert, "ca", f.CA)
	f.now = now
	return now
}

func (f *TLSFiles) stamps() (s [3]stamp) {
	for i, name := range []string{f.Cert, f.Key, f.CA} {
		if info, err := os.Stat(name); err == nil {
			s[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return s
}

func (f *TLSFiles) read() (p tlsParts, err error) {
	if f.Cert != "" {
		cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return p, fmt.Errorf("transport: certificate and key: %w", err)
		}
		p.cert = &cert
	}
	if f.CA != "" {
		data, err := os.ReadFile(f.CA)
		if err != nil {
			return p, fmt.Errorf("transport: CA: %w", err)
		}
		p.roots = x509.NewCertPool()
		if !p.roots.AppendCertsFromPEM(data) {
			return p, fmt.Errorf("transport: CA: no certificate in %s", f.CA)
		}
	}
	return p, nil
}
