package transport

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"sync"
	"time"
	"unicode/utf8"
)

// reason is why a connection, or a datagram, was not taken further.
type reason uint8

const (
	reasonHTTP      reason = iota // somebody speaks HTTP to the ingest port
	reasonTLS                     // a TLS hello on a port without TLS
	reasonText                    // lines of text
	reasonMalformed               // anything else that is not a batch
	reasonTooLarge                // a message announced above MaxMessage
	reasonTruncated               // ended in the middle of a message
	reasonStalled                 // a message that did not complete in time
	reasonHandshake               // TLS that could not be agreed on
	reasonReset                   // the network or the peer tore the connection
	reasonAcks                    // the peer does not take its acknowledgements
	reasonWriter                  // our Writer refused a batch
	reasonFull                    // MaxConns connections are open
	reasonMemory                  // MaxBuffered is spent
	reasonSignature               // a datagram that no known secret signed
	reasonOverflow                // datagrams that the system had no room for
	reasonSources                 // a datagram of more new sources than are let in at a time
	reasonPeer                    // a reader that may not read here
	reasons
)

var reasonNames = [reasons]string{
	"http", "tls", "text", "malformed", "too_large", "truncated", "stalled",
	"handshake", "reset", "acks", "writer", "full", "memory", "signature", "overflow", "sources", "peer",
}

func (r reason) String() string { return reasonNames[r] }

// fault is an error that closes one connection.
type fault struct {
	reason reason
	says   string // for the log
	err    error  // what is behind it, may be nil
}

func (f *fault) Error() string {
	if f.err != nil {
		return f.says + ": " + f.err.Error()
	}
	return f.says
}

// sniff recognises, from the first bytes of a connection, protocols that are
// certainly not ours, so that their speakers are turned away at once and need
// not time out. None of these beginnings is that of a batch: a TLS hello would
// be a message of field number zero; a method would be a length and then
// fields that a batch does not have.
func sniff(b []byte) *fault {
	switch {
	case len(b) >= 3 && b[0] == 0x16 && b[1] == 0x03 && b[2] <= 0x04:
		return &fault{reason: reasonTLS, says: "looks like a TLS hello: this port is not TLS"}
	case bytes.HasPrefix(b, []byte("PRI * HTTP/2")):
		return &fault{reason: reasonHTTP, says: "looks like HTTP/2 or gRPC"}
	}
	for _, method := range methods {
		if bytes.HasPrefix(b, method) && len(b) > len(method) && (b[len(method)] == '/' || b[len(method)] == '*' || b[len(method)] == 'h') {
			return &fault{reason: reasonHTTP, says: "looks like HTTP"}
		}
	}
	return nil
}

var methods = [][]byte{
	[]byte("GET "), []byte("PUT "), []byte("POST "), []byte("HEAD "), []byte("DELETE "),
	[]byte("OPTIONS "), []byte("PATCH "), []byte("CONNECT "), []byte("TRACE "),
}

// suspect says what bytes look like that turned out not to be a batch.
func suspect(b []byte) *fault {
	if f := sniff(b); f != nil {
		return f
	}
	head := b[:min(len(b), 32)]
	switch {
	case len(head) == 0:
	case readable(head):
		what := "looks like lines of text"
		switch {
		case head[0] == '{' || head[0] == '[':
			what = "looks like JSON"
		case head[0] == '<' && len(head) > 1 && head[1] >= '0' && head[1] <= '9':
			what = "looks like syslog"
		}
		return &fault{reason: reasonText, says: what}
	case head[0] == 0x0a:
		return &fault{reason: reasonMalformed, says: "looks like a batch without its length in front"}
	case head[0] == 0 && len(head) > 1 && head[1] == 0:
		return &fault{reason: reasonMalformed, says: "looks like lengths of fixed size; ours are varints"}
	}
	return &fault{reason: reasonMalformed, says: "not length-delimited EnvelopeBatch messages"}
}

// readable reports whether b is text, except for a rune cut off at its end.
func readable(b []byte) bool {
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			return len(b) < utf8.UTFMax && !utf8.FullRune(b)
		}
		if r < ' ' && r != '\n' && r != '\r' && r != '\t' || r == 0x7f {
			return false
		}
		b = b[n:]
	}
	return true
}

// complaints counts faults, and names the first of each reason in every minute
// in one log line, with how many have gone unnamed before.
type complaints struct {
	log *slog.Logger

	mu      sync.Mutex
	counts  [reasons]uint64
	unnamed [reasons]uint64
	last    [reasons]time.Time
}

func (c *complaints) add(f *fault, remote net.Addr) { c.addMany(1, f, remote) }

func (c *complaints) addMany(n uint64, f *fault, remote net.Addr) {
	now := time.Now()
	c.mu.Lock()
	c.counts[f.reason] += n
	if last := c.last[f.reason]; !last.IsZero() && now.Sub(last) < time.Minute {
		c.unnamed[f.reason] += n
		c.mu.Unlock()
		return
	}
	unnamed := c.unnamed[f.reason] + n - 1
	c.unnamed[f.reason], c.last[f.reason] = 0, now
	c.mu.Unlock()
	c.log.LogAttrs(context.Background(), slog.LevelWarn, "input refused",
		slog.String("reason", f.reason.String()),
		slog.String("remote", addrString(remote)),
		slog.String("error", f.Error()),
		slog.Uint64("unnamed_before", unnamed))
}

// snapshot is the counts above zero by the reasons' names.
func (c *complaints) snapshot() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := make(map[string]uint64)
	for r, n := range c.counts {
		if n > 0 {
			m[reason(r).String()] = n
		}
	}
	return m
}

func addrString(a net.Addr) string {
	if a == nil {
		return "unknown"
	}
	if s := a.String(); s != "" && s != "@" {
		return s
	}
	return a.Network() // a unix socket's client has no name
}
