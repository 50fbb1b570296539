package jwt

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

const (
	requestTimeout = 10 * time.Second
	maxAnswer      = 32 << 20
)

// StatusError is an answer other than 200.
type StatusError struct {
	Host   string
	Status int
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s answered %d %s", e.Host, e.Status, http.StatusText(e.Status))
}

// NewClient makes requests to issuers and their like: within bounds of time, and
// following nobody elsewhere, since tokens may be in them. config may be nil.
func NewClient(config *tls.Config) *http.Client {
	dialer := &net.Dialer{Timeout: requestTimeout}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    requestTimeout,
			ResponseHeaderTimeout:  requestTimeout,
			IdleConnTimeout:        time.Minute,
			MaxIdleConnsPerHost:    16,
			MaxConnsPerHost:        32,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		},
		Timeout:       requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// GetJSON reads the answer of one request, of bounded size. token, if not empty,
// goes with it. Errors hold neither it nor the query.
func GetJSON(ctx context.Context, client *http.Client, target, token string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return errors.New("an address cannot be read")
	}
	req.Header.Set("Accept", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return fmt.Errorf("%s cannot be reached: %w", req.URL.Host, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return &StatusError{req.URL.Host, resp.StatusCode}
	}
	body := &io.LimitedReader{R: resp.Body, N: maxAnswer + 1}
	if err := json.NewDecoder(body).Decode(into); err != nil {
		if body.N <= 0 {
			return fmt.Errorf("%s answers with more than %d MiB", req.URL.Host, maxAnswer>>20)
		}
		return fmt.Errorf("%s answers with what is not the JSON that was asked for", req.URL.Host)
	}
	return nil
}

// Base checks the address of an issuer or its like, and takes the slash off its
// end. Over http it must be on this machine: whoever is on the way could put his
// own keys in.
func Base(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" {
		return "", errors.New("it is an address like https://uaa.example.com")
	}
	if addr, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (err != nil || !addr.IsLoopback()) {
		return "", errors.New("it must begin with https://, unless it is on this machine")
	}
	return strings.TrimRight(raw, "/"), nil
}

// Host is that of an address, for errors.
func Host(raw string) string {
	if u, err := url.Parse(raw); err == nil && u.Host != "" {
		return u.Host
	}
	return "the issuer"
}
