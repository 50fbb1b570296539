package drains

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

// tls is what drains trust and show, asked at each handshake; nil if nothing is
// said of it.
func (f *Flags) tls(log *slog.Logger) (func() (*tls.Config, error), error) {
	if f.drainCA == "" && f.drainCert == "" && f.key == "" {
		return nil, nil
	}
	if (f.drainCert == "") != (f.key == "") {
		return nil, errors.New("-drain-cert and -drain-key go together")
	}
	files := &tlsFiles{ca: f.drainCA, cert: f.drainCert, key: f.key, log: log, looked: time.Now()}
	files.stamps = files.look()
	var err error
	if files.config, err = files.read(); err != nil {
		return nil, err
	}
	return files.current, nil
}

// tlsFiles are read again when they have changed, which is looked for at most
// once a second. What cannot be used then is logged and changes nothing.
type tlsFiles struct {
	ca, cert, key string
	log           *slog.Logger

	mu     sync.Mutex
	looked time.Time
	stamps [3]stamp
	config *tls.Config
}

type stamp struct {
	modified time.Time
	size     int64
}

func (f *tlsFiles) look() (list [3]stamp) {
	for i, name := range [3]string{f.ca, f.cert, f.key} {
		if info, err := os.Stat(name); err == nil {
			list[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return list
}

func (f *tlsFiles) current() (*tls.Config, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.looked) >= time.Second {
		f.looked = now
		if list := f.look(); list != f.stamps {
			f.stamps = list // usable or not: one line for each change
			switch config, err := f.read(); {
			case err != nil:
				f.log.Warn("certificates of drains have changed and cannot be used; going on with those from before", "error", err.Error())
			default:
				f.config = config
				f.log.Info("certificates of drains read again", "drain-ca", f.ca, "drain-cert", f.cert)
			}
		}
	}
	return f.config, nil
}

func (f *tlsFiles) read() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		text, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("-drain-ca: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("-drain-ca: there is no certificate in %s", f.ca)
		}
		config.RootCAs = pool
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("-drain-cert: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
