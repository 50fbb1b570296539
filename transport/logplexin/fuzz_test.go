package logplexin

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/taken"
)

// FuzzBody: a body is refused as a whole or taken as a whole: each of its frames
// is accounted for, and what is read of the frames, put together again, is the
// body.
func FuzzBody(f *testing.F) {
	f.Add([]byte(body("<190>1 - host app web.1 - one\n", "<172>1 - host heroku logplex - Error L10 (output buffer overflow): 7 messages dropped since 2026.", "", "x")), "Logplex/1", "4")
	f.Add([]byte(body("<190>1 - shuttle shop web.1 - - [a b=\"c\"]\n")+"\n"), "log-shuttle", "1")
	f.Fuzz(func(t *testing.T, b []byte, agent, n string) {
		if strings.ContainsAny(agent+n, "\r\n\x00") {
			return
		}
		dst := taken.New(t)
		h := New(dst, &Options{MaxLine: 1 << 10})
		w := post(h, string(b), "User-Agent: "+agent, "Logplex-Msg-Count: "+n)
		s := h.Stats()
		if s.Messages+s.Parts != s.Records+s.Filtered+s.Lost || s.Records != uint64(len(dst.Take())) || s.Missed != dst.Missed() {
			t.Fatalf("not conserved: %+v", s)
		}
		var again []byte
		frames := 0
		for rest := b; ; frames++ {
			message, tail, ok := next(rest)
			if !ok {
				if whole := len(bytes.TrimSpace(rest)) == 0; whole != (w.Code == 204) {
					t.Fatalf("answer %d, %q left", w.Code, rest)
				}
				again = append(again, rest...)
				break
			}
			again = append(append(again, rest[:len(rest)-len(tail)-len(message)]...), message...)
			rest = tail
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("%q became %q", b, again)
		}
		switch {
		case w.Code == 204 && s.Messages != uint64(frames), w.Code != 204 && s.Messages != 0:
			t.Fatalf("%d messages of %d taken, answer %d", s.Messages, frames, w.Code)
		case w.Code == 204 && (s.Mismatched == 1) == (n == "" || n == strconv.Itoa(frames)):
			t.Fatalf("count %q of %d: %+v", n, frames, s)
		}
	})
}

// discard is a Writer that takes everything and keeps nothing.
type discard struct{}

func (discard) WriteBatch(context.Context, envelope.Batch) error { return nil }

// request is a body as log-shuttle sends it: 500 lines of a web application.
func request() (string, int) {
	var lines []string
	for i := range 500 {
		lines = append(lines, fmt.Sprintf("<190>1 2026-02-03T04:05:06.%06d+00:00 shuttle shop web.%d - - at=info method=GET path=\"/orders/%d\" host=shop.example.com request_id=8601b555 fwd=\"204.204.204.204\" connect=1ms service=18ms status=200 bytes=13\n", i, i%4, i))
	}
	return body(lines...), len(lines)
}

// TestAllocs: a line costs no allocation, and a request a few.
func TestAllocs(t *testing.T) {
	h := New(discard{}, nil)
	in := newIntake(h)
	b, n := request()
	in.body = []byte(b)
	if allocs := testing.AllocsPerRun(20, func() {
		if got, f := count(in.body); f != nil || got != n {
			t.Fatal(got, f)
		}
		if err := in.take(Origin{}, n); err != nil {
			t.Fatal(err)
		}
	}); allocs > 0 {
		t.Errorf("%v allocations for %d lines", allocs, n)
	}
}

// BenchmarkLines is what a line costs without HTTP.
func BenchmarkLines(b *testing.B) {
	h := New(discard{}, nil)
	in := newIntake(h)
	s, n := request()
	in.body = []byte(s)
	b.SetBytes(int64(len(s) / n))
	b.ReportAllocs()
	left := 0
	for b.Loop() {
		if left == 0 { // an operation is a line
			if _, f := count(in.body); f != nil {
				b.Fatal(f)
			}
			if err := in.take(Origin{}, n); err != nil {
				b.Fatal(err)
			}
			left = n
		}
		left--
	}
}

// BenchmarkTLS is what a line costs over HTTPS, client and all.
func BenchmarkTLS(b *testing.B) {
	s, n := request()
	for _, zipped := range []bool{false, true} {
		b.Run(fmt.Sprintf("gzip=%v", zipped), func(b *testing.B) {
			h := New(discard{}, nil)
			server := httptest.NewTLSServer(h)
			defer server.Close()
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
			payload := s
			if zipped {
				payload = zip(s)
			}
			b.SetBytes(int64(len(s) / n))
			b.ReportAllocs()
			left, sent := 0, 0
			for b.Loop() {
				if left == 0 { // an operation is a line
					req, _ := http.NewRequest("POST", server.URL, strings.NewReader(payload))
					req.Header.Set("Content-Type", ContentType)
					req.Header.Set("Logplex-Msg-Count", strconv.Itoa(n))
					if zipped {
						req.Header.Set("Content-Encoding", "gzip")
					}
					resp, err := client.Do(req)
					if err != nil {
						b.Fatal(err)
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if resp.StatusCode != 204 {
						b.Fatal(resp.Status)
					}
					left = n
					sent += n
				}
				left--
			}
			if got := h.Stats().Records; got != uint64(sent) {
				b.Fatalf("%d lines came of %d", got, sent)
			}
			client.CloseIdleConnections()
		})
	}
}
