package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/transport/access"
)

func TestTokenGoesWhereItBelongs(t *testing.T) {
	noCF(t)
	logIn(t, "https://api.sys.acme.test")
	for _, tt := range []struct {
		target, env, envTarget string
		want                   string // what is sent
		without                string
	}{
		{"https://api.sys.acme.test", "", "", "t0ken", ""},
		{"https://logs.sys.acme.test", "", "", "t0ken", ""},
		{"https://LOGS.sys.acme.test:8443", "", "", "t0ken", ""},
		{"https://doppler.sys.acme.test", "", "", "t0ken", ""},
		{"https://logs.acme.test", "", "", "", "the cf client's token is for https://api.sys.acme.test"},
		{"https://sys.acme.test.evil.test", "", "", "", "goes nowhere else"},
		{"https://evilsys.acme.test", "", "", "", "goes nowhere else"},
		{"http://logs.sys.acme.test", "", "", "", "goes nowhere else"},
		{"http://127.0.0.1:8080", "", "", "", "goes nowhere else"},
		{"http://127.0.0.1:8080", "bearer own", "", "own", ""},
		{"https://elsewhere.test", "own", "", "own", ""},
		{"http://elsewhere.test", "own", "", "", "no token is sent over http://"},
		{"https://elsewhere.test", "own", "https://logs.test", "", "$LOGGREGATOR_TOKEN is for https://logs.test"},
		{"https://logs.test", "own", "https://logs.test:443/", "own", ""},
		{"http://logs.test", "own", "https://logs.test", "", "is for"},
		{"https://logs.test", "own", "https://user:secret@other.test", "", "is for https://other.test"},
	} {
		t.Setenv(tokenVariable, tt.env)
		t.Setenv(targetVariable, tt.envTarget)
		u, err := url.Parse(tt.target)
		if err != nil {
			t.Fatal(err)
		}
		got, without := tokenFor(u, readConfig())
		if got != tt.want || !strings.Contains(without, tt.without) || (without == "") != (tt.without == "") || strings.Contains(without, "secret") {
			t.Errorf("%s with %q for %q: %q %q", tt.target, tt.env, tt.envTarget, got, without)
		}
	}
}

// A login at an API without a domain, or by address, is for that host alone.
func TestShortDomainsOwnNothing(t *testing.T) {
	for _, api := range []string{"https://api.test", "https://10.0.0.1", "https://localhost", ""} {
		c := cfConfig{Target: api}
		for _, target := range []string{"https://evil.test", "https://evil.0.0.1", "https://evil", "https://x.localhost"} {
			u, _ := url.Parse(target)
			if c.owns(u) {
				t.Errorf("%q owns %s", api, target)
			}
		}
	}
}

// A server that sends its clients on gets no token sent on with them.
func TestTokenIsNotSentOn(t *testing.T) {
	noCF(t)
	t.Setenv(tokenVariable, "own")
	got := make(chan string, 1)
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.Header.Get("Authorization") }))
	defer other.Close()
	first := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer first.Close()
	for _, args := range [][]string{{"--app=web"}, {"--app=web", "--recent"}} {
		var stderr bytes.Buffer
		err := run(t.Context(), append(args, "--target="+first.URL), io.Discard, &stderr)
		if daemon.Status("cf-logs", err, io.Discard) != 1 || !strings.Contains(err.Error(), "is it a Loggregator server?") {
			t.Errorf("%v", err)
		}
		select {
		case h := <-got:
			t.Errorf("sent on with %q", h)
		default:
		}
	}
}

// until is an Authorizer whose tokens run out.
type until struct{ at time.Time }

func (u until) Authorize(_ context.Context, _ string, sel []envelope.Selector) (access.Grant, error) {
	return access.Grant{User: "me", Select: sel, Expires: u.at}, nil
}

func TestTokenThatRunsOut(t *testing.T) {
	noCF(t)
	t.Setenv(tokenVariable, "own")
	r := start(t, until{time.Now().Add(200 * time.Millisecond)}, nil)
	r.publish(t, "web", 1, 1)
	var stdout, stderr bytes.Buffer
	err := run(t.Context(), []string{"--app=web", "--target=" + r.url}, &stdout, &stderr)
	if daemon.Status("cf-logs", err, io.Discard) != 1 || !strings.Contains(err.Error(), "expired") || strings.Contains(err.Error(), "\n") || stderr.Len() > 0 {
		t.Errorf("%v, %q", err, stderr.String())
	}
	// On a machine that was asleep for as long as the token lived, nothing.
	if got := stdout.String(); got != text("web", 1) && got != "" {
		t.Errorf("%q", got)
	}
	err = run(t.Context(), []string{"--app=web", "--recent", "--target=" + r.url}, &stdout, &stderr)
	if err == nil || err.Error() != r.url+" refused the token: it has expired; log in again" {
		t.Errorf("%v", err)
	}
}

// The cf client has got another token in the meantime: it goes on where it was.
func TestTokenIsRenewed(t *testing.T) {
	noCF(t)
	var mu sync.Mutex
	good, sent := "t0ken", make(map[string]bool)
	r := start(t, allow(func(token string, _ []envelope.Selector) error {
		mu.Lock()
		defer mu.Unlock()
		sent[token] = true
		if token != good {
			return fmt.Errorf("%w: it has expired; log in again", access.ErrToken)
		}
		return nil
	}), &access.Options{Recheck: 20 * time.Millisecond})
	config := logIn(t, r.url)
	r.publish(t, "web", 1, 1)
	c := begin(t, "--app=web", "--target="+r.url)
	c.stdout.contains(t, text("web", 1))
	mu.Lock()
	good = "another"
	text1, err := os.ReadFile(config)
	if err == nil { // at once, as the cf client does
		err = errors.Join(os.WriteFile(config+"~", bytes.Replace(text1, []byte("t0ken"), []byte("another"), 1), 0o600), os.Rename(config+"~", config))
	}
	mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	r.publish(t, "web", 2, 1)
	c.stdout.contains(t, text("web", 2))
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		mu.Lock()
		again := sent["another"]
		mu.Unlock()
		if again {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the other token was never sent")
		}
	}
	r.publish(t, "web", 3, 1)
	c.stdout.contains(t, text("web", 3))
	c.interrupt(t)
	if got := c.stdout.String(); got != texts("web", 1, 3) {
		t.Errorf("%q", got)
	}
}
