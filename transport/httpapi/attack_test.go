package httpapi

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// What clients do that mean harm, beside reading what is not theirs, of which the
// tests of package cloudfoundry have a list.

// holder is an Authorizer for tests: the token is the user, who may read what
// carries his name as its org, until a time.
type holder struct{ until time.Time }

func (a holder) Authorize(_ context.Context, token string, sel []envelope.Selector) (access.Grant, error) {
	g := access.Grant{User: token, Expires: a.until}
	var err error
	g.Select, err = access.Within(sel, []envelope.Selector{{Org: token}})
	return g, err
}

// daemons serves h as the daemons do, on pipes, until the test ends.
func daemons(t *testing.T, h http.Handler) *pipes {
	t.Helper()
	p := newPipes()
	srv := daemon.HTTPServer(h, slog.New(slog.DiscardHandler))
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(p) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return p
}

func TestDeniedAndUnknownLookTheSame(t *testing.T) {
	src := &script{known: []string{"mine", "theirs", "me", "them"}, batches: []envelope.Batch{lines(1, 1)}}
	h := New(access.NewGate(src, holder{}, nil), nil)
	ask := func(target, accept string) string {
		t.Helper()
		r := httptest.NewRequest(http.MethodGet, target, nil)
		r.Header.Set("Accept", accept)
		r.Header.Set("Authorization", "Bearer me")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return fmt.Sprint(w.Code, w.Header(), w.Body)
	}
	for _, accept := range []string{"text/plain", "application/x-ndjson", "application/x-protobuf"} {
		for _, page := range []string{"recent", "tail"} {
			for _, pair := range [][2]string{
				{"org=them", "org=nope"},                   // denied, for all that is there
				{"app=mine&org=them", "app=mine&org=nope"}, // also within
				{"app=mine&app=theirs&org=them", "app=mine&app=nope&org=nope"},
			} {
				denied, unknown := ask("/v1/"+page+"?"+pair[0], accept), ask("/v1/"+page+"?"+pair[1], accept)
				denied = strings.NewReplacer("them", "nope", "theirs", "nope").Replace(denied)
				if denied != unknown || !strings.HasPrefix(denied, "404") {
					t.Errorf("%s as %s:\n%s\n%s", page, accept, denied, unknown)
				}
			}
			// What he may read and has not logged looks like that, too.
			if got := ask("/v1/"+page+"?app=nope", accept); !strings.HasPrefix(got, "404") {
				t.Errorf("%s", got)
			} else if want := ask("/v1/"+page+"?app=nope&org=them", accept); got != want {
				t.Errorf("%s\n%s", got, want)
			}
		}
	}
	if got := ask("/v1/recent?app=mine", "text/plain"); !strings.HasPrefix(got, "200") {
		t.Errorf("his own: %s", got)
	}
	if s := h.gate.Stats(); s.Readers != 0 || s.Denied != 3*2*(3*2+1) {
		t.Errorf("%+v", s)
	}
}

func TestTokenExpiresInMidStream(t *testing.T) {
	for _, tt := range []struct{ accept, last string }{
		{"text/plain", "-- the token has expired; log in again and go on at your cursor --\n"},
		{"application/x-ndjson", `{"type":"end","error":"the token has expired; log in again and go on at your cursor"}` + "\n"},
		{"application/x-protobuf", ""},
		{"websocket", ""},
	} {
		t.Run(tt.accept, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &script{batches: []envelope.Batch{lines(1, 2)}}
				gate := access.NewGate(src, holder{time.Now().Add(time.Minute)}, nil)
				h := New(gate, nil)
				client, _ := serve(t, h)
				start := time.Now()
				if tt.accept == "websocket" {
					c, _, err := websocket.Dial(t.Context(), "http://test/v1/tail", &websocket.DialOptions{
						HTTPClient: client, HTTPHeader: http.Header{"Authorization": {"Bearer me"}},
					})
					if err != nil {
						t.Fatal(err)
					}
					if b := read(t, c); b.Count != 2 {
						t.Errorf("%+v", b)
					}
					_, _, err = c.Read(t.Context())
					if end, ok := errors.AsType[websocket.CloseError](err); !ok || end.Code != websocket.StatusPolicyViolation || end.Reason != access.ErrExpired.Error() {
						t.Errorf("%v", err)
					}
				} else {
					r, _ := http.NewRequest(http.MethodGet, "http://test/v1/tail", nil)
					r.Header.Set("Accept", tt.accept)
					r.Header.Set("Authorization", "Bearer me")
					resp, err := client.Do(r)
					if err != nil {
						t.Fatal(err)
					}
					all := body(t, resp)
					resp.Body.Close()
					if !strings.HasSuffix(all, tt.last) || len(all) < 20 || resp.Trailer.Get(endTrailer) != access.ErrExpired.Error() {
						t.Errorf("%q %v", all, resp.Trailer)
					}
				}
				if d := time.Since(start); d != time.Minute {
					t.Errorf("after %v", d)
				}
				synctest.Wait()
				if s := gate.Stats(); s.Expired != 1 || s.Readers != 0 || h.Stats().Readers != 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

func TestPathTricks(t *testing.T) {
	h := New(open(&script{batches: []envelope.Batch{lines(1, 1)}}), nil)
	srv := httptest.NewServer(h)
	defer srv.Close()
	for _, path := range []string{
		"//v1/recent", "/v1//recent", "/v1/recent/", "/v1/../v1/recent", "/x/../v1/recent", "/v1/./recent", "/./v1/recent",
		"/v1%2Frecent", "/v1/%72ecent", "/v1/recent%00", "/v1/recent;x", "/V1/recent", "/v1/recent%3Fapp=web", "/v1\\recent", "v1/recent", "*",
	} {
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, srv.Listener.Addr())
		answer, err := io.ReadAll(c)
		c.Close()
		if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 40")) || bytes.Contains(answer, []byte("line 1")) {
			t.Errorf("%s: %.200q %v", path, answer, err)
		}
	}
}

func TestCompressedBodyIsNotInflated(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	z.Write(bytes.Repeat([]byte("app=x&"), 1<<20))
	z.Close()
	r := httptest.NewRequest(http.MethodPost, "/v1/recent", &bomb)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Content-Encoding", "gzip")
	w := httptest.NewRecorder()
	New(open(&script{}), nil).ServeHTTP(w, r)
	if w.Code != http.StatusUnsupportedMediaType || !strings.Contains(w.Body.String(), "without Content-Encoding") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// A WebSocket on which nothing is agreed that would inflate a message.
func TestNoCompressionIsAgreed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := serve(t, New(open(&script{}), nil))
		c, resp, err := websocket.Dial(t.Context(), "http://test/v1/tail", &websocket.DialOptions{HTTPClient: client, CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		if ext := resp.Header.Get("Sec-WebSocket-Extensions"); ext != "" {
			t.Errorf("%q", ext)
		}
	})
}

func TestHeaderFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(open(&script{}), nil)
		p := daemons(t, h)
		c, err := p.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		go func() {
			io.WriteString(c, "GET /v1/tail HTTP/1.1\r\nHost: test\r\n")
			for i := range 10_000 {
				if _, err := fmt.Fprintf(c, "X-%d: %s\r\n", i, strings.Repeat("x", 1000)); err != nil {
					return
				}
			}
		}()
		answer, _ := io.ReadAll(c)
		if !bytes.HasPrefix(answer, []byte("HTTP/1.1 431 ")) {
			t.Errorf("%.100q", answer)
		}
	})
}

func TestSlowloris(t *testing.T) {
	for _, tt := range []struct{ name, begin string }{
		{"nothing", ""},
		{"header", "GET /v1/tail HTTP/1.1\r\nHost: test\r\n"},
		{"form", "POST /v1/tail HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000000\r\n\r\n"},
		{"chunks", "POST /v1/tail HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate := open(&script{})
				h := New(gate, nil)
				p := daemons(t, h)
				c, err := p.dial(t.Context(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				start := time.Now()
				dripped := make(chan struct{})
				go func() {
					defer close(dripped)
					drip := "X: y\r\n"
					if tt.name == "chunks" {
						drip = "1\r\nx\r\n"
					}
					_, err := io.WriteString(c, tt.begin)
					for err == nil && tt.begin != "" {
						time.Sleep(time.Second)
						_, err = io.WriteString(c, drip)
						if s := gate.Stats(); s.Readers > 0 {
							t.Error("it has a reader's place")
						}
					}
				}()
				io.Copy(io.Discard, c)
				c.Close()
				<-dripped
				if d := time.Since(start); d > 40*time.Second {
					t.Errorf("cut after %v", d)
				}
			})
		})
	}
}

// frame is a frame as a client sends it (RFC 6455, section 5.2), masked with zeros.
func frame(head byte, size uint64, masked bool) []byte {
	f := []byte{head, 127}
	if masked {
		f[1] |= 0x80
	}
	f = binary.BigEndian.AppendUint64(f, size)
	if masked {
		f = append(f, 0, 0, 0, 0)
	}
	return f
}

func TestHostileFrames(t *testing.T) {
	const final, binaryFrame, ping = 0x80, 0x2, 0x9
	for _, tt := range []struct {
		name string
		send func(w io.Writer) error
		code uint16 // with which it is closed; 0: any, or just cut
	}{
		{"unmasked", func(w io.Writer) error {
			_, err := w.Write(append(frame(final|binaryFrame, 4, false), "abcd"...))
			return err
		}, 0},
		{"larger than memory", func(w io.Writer) error {
			_, err := w.Write(frame(final|binaryFrame, 1<<62, true))
			for err == nil {
				_, err = w.Write(make([]byte, 4096))
			}
			return err
		}, 1009},
		{"a size that is negative", func(w io.Writer) error {
			_, err := w.Write(frame(final|binaryFrame, 1<<63, true))
			return err
		}, 0},
		{"empty fragments for ever", func(w io.Writer) error {
			_, err := w.Write([]byte{binaryFrame, 0x80, 0, 0, 0, 0})
			for err == nil {
				_, err = w.Write(bytes.Repeat([]byte{0, 0x80, 0, 0, 0, 0}, 100))
			}
			return err
		}, 1008},
		{"fragments for ever", func(w io.Writer) error {
			_, err := w.Write([]byte{binaryFrame, 0x81, 0, 0, 0, 0, 'x'})
			for err == nil {
				_, err = w.Write(bytes.Repeat([]byte{0, 0x81, 0, 0, 0, 0, 'x'}, 100))
			}
			return err
		}, 1009},
		{"small messages for ever", func(w io.Writer) (err error) {
			for err == nil {
				_, err = w.Write(bytes.Repeat([]byte{final | binaryFrame, 0x81, 0, 0, 0, 0, 'x'}, 100))
			}
			return err
		}, 1008},
		{"pings for ever", func(w io.Writer) (err error) {
			for err == nil {
				_, err = w.Write(bytes.Repeat([]byte{final | ping, 0x80, 0, 0, 0, 0}, 100))
			}
			return err
		}, 1008},
		{"a ping that is too large", func(w io.Writer) error {
			_, err := w.Write(frame(final|ping, 126, true))
			return err
		}, 0},
		{"bits that mean nothing", func(w io.Writer) error {
			_, err := w.Write([]byte{0xf2, 0x80, 0, 0, 0, 0})
			return err
		}, 0},
		{"half a frame and then nothing", func(w io.Writer) error {
			_, err := w.Write([]byte{final | binaryFrame, 0xfe, 1})
			return err
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &script{more: make(chan envelope.Batch)}
				h := New(open(src), nil)
				client, p := serve(t, h)
				other := dial(t, client, "http://test/v1/tail")
				got := make(chan int)
				go func() { // all the while, so that it answers pings
					defer close(got)
					if _, m, err := other.Read(t.Context()); err == nil {
						b, _ := envelope.ParseBatch(m)
						got <- b.Count
					}
				}()
				c, err := p.dial(t.Context(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				io.WriteString(c, "GET /v1/tail HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
				in := bufio.NewReader(c)
				if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 101 {
					t.Fatal(resp, err)
				}
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					tt.send(c)
				}()
				answer, _ := io.ReadAll(in) // until it is cut
				c.Close()
				<-sent
				synctest.Wait()
				if s := h.Stats(); s.Readers != 1 {
					t.Fatalf("%+v", s)
				}
				if tt.code != 0 && !bytes.Contains(answer, binary.BigEndian.AppendUint16(nil, tt.code)) {
					t.Errorf("closed with %q, want %d", answer[max(0, len(answer)-100):], tt.code)
				}
				if n := h.Stats().Flooded; (n == 1) != (tt.code == 1008) {
					t.Errorf("%d floods", n)
				}
				// Nobody else notices.
				src.more <- lines(1, 1)
				if n := <-got; n != 1 {
					t.Errorf("%d records", n)
				}
			})
		})
	}
}

func TestCrossSiteWebSocketGetsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{batches: []envelope.Batch{lines(1, 1)}}
		gate := access.NewGate(src, nil, &access.Options{Origins: []string{"console.test"}})
		h := New(gate, nil)
		client, _ := serve(t, h)
		for _, tt := range []struct {
			origin string
			status int
		}{{"https://evil.test", 403}, {"null", 403}, {"http://test.evil.test", 403}, {"http://test", 101}, {"https://console.test", 101}, {"", 101}} {
			header := http.Header{}
			if tt.origin != "" {
				header.Set("Origin", tt.origin)
			}
			c, resp, err := websocket.Dial(t.Context(), "http://test/v1/tail", &websocket.DialOptions{HTTPClient: client, HTTPHeader: header})
			if resp == nil || resp.StatusCode != tt.status {
				t.Errorf("%q: %v %v", tt.origin, resp, err)
			}
			if err == nil {
				c.CloseNow()
			}
		}
		synctest.Wait()
		if s := gate.Stats(); s.Foreign != 3 || s.Readers != 0 {
			t.Errorf("%+v", s)
		}
	})
}
