package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/internal/daemon"
)

// output is what a command prints, read while it is written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// find waits until the pattern is there and gives its first group.
func (o *output) find(t testing.TB, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if m := re.FindStringSubmatch(o.String()); m != nil {
			return m[len(m)-1]
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s in\n%s", pattern, o.String())
		}
	}
}

// command runs the command until the test ends or stop is called.
func command(t *testing.T, args ...string) (out *output, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out = new(output)
	ended := make(chan error, 1)
	go func() { ended <- dispatch(ctx, args, out, out) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { stop() })
	return out, stop
}

const hello = "<14>1 2026-02-03T04:05:06.000007+00:00 acme.prod.shop 0d1e2f30-1111-4222-8333-444455556666 [APP/PROC/WEB/0] - [tags@47450 app_name=\"shop\"] hello\n"

func TestReceive(t *testing.T) {
	out, stop := command(t, "receive", "-listen", "127.0.0.1:0")
	addr := out.find(t, `Receiving at (\S+)\.`)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "%d %s%d %s", len(hello), hello, 4, "rubb")
	c.Close()
	out.find(t, `#1 [0-9:.]+  <14>1 2026.*shop"\] hello\n`)
	out.find(t, `#1 [0-9:.]+  rubb\n  !! connection 1: no RFC 5424: `)
	if err := stop(); daemon.Status(name, err, io.Discard) != 1 {
		t.Errorf("ended with %v", err)
	}
	out.find(t, `Received 2 messages over 1 connections; 1 problems\.`)
}

func TestReceiveTLS(t *testing.T) {
	for _, mode := range []string{"-tls", "-https"} {
		t.Run(mode, func(t *testing.T) {
			out, stop := command(t, "receive", "-listen", "127.0.0.1:0", mode, "-count", "1")
			addr := out.find(t, `Receiving at (\S+)\.`)
			file := out.find(t, `has to trust: (\S+)\n`)
			ca, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM(ca)
			config := &tls.Config{RootCAs: pool}
			if mode == "-tls" {
				c, err := tls.Dial("tcp", addr, config)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(c, "%d %s", len(hello), hello)
				defer c.Close()
			} else {
				client := http.Client{Transport: &http.Transport{TLSClientConfig: config}}
				defer client.CloseIdleConnections()
				if _, err := client.Post("https://"+addr, "text/plain", strings.NewReader(hello)); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
			}
			out.find(t, `Received 1 messages.* over 1 connections; 0 problems\.`)
			if err := stop(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left: %v", file, err)
			}
		})
	}
}

func TestReceiveMisbehaves(t *testing.T) {
	out, _ := command(t, "receive", "-listen", "127.0.0.1:0", "-misbehave", "close", "-for", "300ms")
	addr := out.find(t, `Receiving at (\S+)\.`)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Error(err)
	}
	c.Close()
	out.find(t, `From now on it behaves\.`)
	if c, err = net.Dial("tcp", addr); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "%d %s", len(hello), hello)
	out.find(t, ` hello\n`)
}

func TestReceiveFlags(t *testing.T) {
	for _, tc := range []struct{ args, says string }{
		{"-misbehave nonsense", `-misbehave: there is no "nonsense"`},
		{"-misbehave crawl=0", `-misbehave: "crawl=0" is not understood`},
		{"-misbehave status=503", "-misbehave: status and delay are for -https"},
		{"-https -misbehave status=1", `-misbehave: "status=1" is not understood`},
		{"-cert x", "-cert and -key go together"},
		{"-cert x -key y", "-cert is for -tls and -https"},
		{"-listen 0.0.0.0:0", "-listen: 0.0.0.0:0 can be reached from other machines"},
		{"-listen=", "-listen: there is nothing to do"},
		{"what", `unexpected argument "what"`},
	} {
		err := receive(t.Context(), strings.Fields(tc.args), io.Discard, io.Discard)
		if err == nil || !strings.HasPrefix(err.Error(), tc.says) {
			t.Errorf("%s: %v", tc.args, err)
		}
	}
	var help bytes.Buffer
	if err := receive(t.Context(), []string{"-help"}, io.Discard, &help); !errors.Is(err, flag.ErrHelp) || !strings.Contains(help.String(), "-misbehave") {
		t.Errorf("%v %s", err, help.String())
	}
}

func TestControlsDoNotReachTheTerminal(t *testing.T) {
	if got := quoteControls("a\x1b[31mb\nc\td"); got != "a·[31mb·c\td" {
		t.Errorf("%q", got)
	}
}
