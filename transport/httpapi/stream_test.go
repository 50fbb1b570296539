package httpapi

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cloudfoundry/loggregator/envelope"
)

// A tail's connection is taken over from the http.Server if its client speaks
// HTTP/1.1, and ends when the client leaves, or says more than a client has to say.
func TestTailOnItsOwn(t *testing.T) {
	for _, tt := range []struct {
		name, version string
		chunked       bool
		leave         func(net.Conn)
	}{
		{"leaves", "HTTP/1.1", true, func(c net.Conn) { c.Close() }},
		{"old, leaves", "HTTP/1.0", false, func(c net.Conn) { c.Close() }},
		{"talks", "HTTP/1.1", true, func(c net.Conn) {
			if n, err := c.Write(bytes.Repeat([]byte("GET / HTTP/1.1\r\n\r\n"), 10_000)); err == nil {
				panic(fmt.Sprintf("%d bytes were read of a client that has nothing to say", n))
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &script{known: []string{"web"}}
				h := New(open(src), nil)
				_, p := serve(t, h)
				c, err := p.dial(t.Context(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				src.more = make(chan envelope.Batch)
				fmt.Fprintf(c, "GET /v1/tail?app=web %s\r\nHost: 127.0.0.1\r\n\r\n", tt.version)
				in := bufio.NewReader(c)
				resp, err := http.ReadResponse(in, nil)
				if err != nil || resp.StatusCode != http.StatusOK || (len(resp.TransferEncoding) > 0) != tt.chunked ||
					!strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
					t.Fatalf("%+v %v", resp, err)
				}
				body := bufio.NewReader(resp.Body)
				for i := range uint64(3) {
					src.more <- lines(i+1, 1)
					line, err := body.ReadString('\n')
					if err != nil || !strings.HasSuffix(line, fmt.Sprintf(" line %d\n", i+1)) {
						t.Fatalf("%q %v", line, err)
					}
				}
				if n := h.Stats().Readers; n != 1 {
					t.Errorf("%d readers", n)
				}
				tt.leave(c)
				synctest.Wait()
				if n := h.Stats().Readers; n != 0 {
					t.Errorf("%d readers are left", n)
				}
				if _, err := io.ReadAll(body); err == nil {
					t.Error("it has an end")
				}
				c.Close()
			})
		})
	}
}
