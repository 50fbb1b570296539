package v1api

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/sonde/v1pb"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/internal/pipenet"
)

const guid = "27ff6fb1-4b1c-4e6f-a8f8-7c6a28d4d3f6"

// script is a Source that yields given batches, whatever is asked, and then, to
// one who follows, what is sent on more, until that is closed or the reader leaves.
type script struct {
	batches []envelope.Batch
	more    chan envelope.Batch
	err     error // ends the sequence

	mu      sync.Mutex
	queries []envelope.Query
}

func (s *script) Known([]envelope.Selector) bool { return true }

func (s *script) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	s.mu.Lock()
	s.queries = append(s.queries, q)
	s.mu.Unlock()
	return func(yield func(envelope.Batch, error) bool) {
		for _, b := range s.batches {
			if !yield(b, nil) {
				return
			}
		}
		for q.Follow {
			select {
			case b, ok := <-s.more:
				if !ok {
					return
				}
				if !yield(b, nil) {
					return
				}
			case <-ctx.Done():
				yield(envelope.Batch{}, ctx.Err())
				return
			}
		}
		if s.err != nil {
			yield(envelope.Batch{}, s.err)
		}
	}
}

var appID = envelope.Identity{SourceID: guid, InstanceID: "0", Tags: map[string]string{"source_type": "APP/PROC/WEB", "origin": "rep"}}.Encode()

// lines makes a batch of n lines that say their number, which is their time, too.
func lines(first, n int) envelope.Batch {
	b := envelope.Batch{Count: n}
	for i := first; i < first+n; i++ {
		b.Records = envelope.AppendLog(b.Records, appID, int64(i), envelope.Out, strconv.AppendInt([]byte("line "), int64(i), 10))
	}
	return b
}

func of(records ...[]byte) (b envelope.Batch) {
	for _, r := range records {
		b.Records = append(b.Records, r...)
		b.Count++
	}
	return b
}

// containerAt makes the metrics of a container.
func containerAt(instance string, timestamp int64, cpu float64) []byte {
	id := envelope.Identity{SourceID: guid, InstanceID: instance, Tags: map[string]string{"origin": "rep"}}.Encode()
	metric := func(name, unit string, v float64) envelope.Metric {
		return envelope.Metric{Name: []byte(name), Unit: []byte(unit), Value: v}
	}
	return envelope.AppendGauge(nil, id, timestamp, metric("cpu", "percentage", cpu), metric("memory", "bytes", 1),
		metric("disk", "bytes", 2), metric("memory_quota", "bytes", 3), metric("disk_quota", "bytes", 4))
}

// everyKind is one record of each kind, and of what v1 has a form for.
func everyKind() envelope.Batch {
	errorID := appID.WithTag("__v1_type", "Error").WithTag("source", "nats").WithTag("code", "4")
	return of(
		envelope.AppendLog(nil, appID, 1, envelope.Err, []byte("log")),
		envelope.AppendLog(nil, errorID, 1, envelope.Out, []byte("error")),
		envelope.AppendCounter(nil, appID, 1, "counter", 1, 2),
		envelope.AppendGauge(nil, appID, 1, envelope.Metric{Name: []byte("value"), Value: 1}),
		containerAt("0", 1, 1),
		envelope.AppendTimer(nil, appID, 1, "http", 1, 2),
		envelope.AppendEvent(nil, appID, 1, "event", ""),
	)
}

// what says in a word or two what a v1 envelope is.
func what(t testing.TB, msg []byte) string {
	t.Helper()
	var e v1pb.Envelope
	if err := proto.Unmarshal(msg, &e); err != nil {
		t.Fatal(err)
	}
	switch e.GetEventType() {
	case 4:
		return "request"
	case 5:
		if e.LogMessage.GetSourceType() == "LGR" {
			return fmt.Sprintf("LGR %s of %s", e.LogMessage.GetMessage(), e.LogMessage.GetAppId())
		}
		return string(e.LogMessage.GetMessage())
	case 6:
		return "value " + e.ValueMetric.GetName()
	case 7:
		if e.GetOrigin() == "doppler" {
			return fmt.Sprintf("doppler %s +%d =%d", e.CounterEvent.GetName(), e.CounterEvent.GetDelta(), e.CounterEvent.GetTotal())
		}
		return "counter " + e.CounterEvent.GetName()
	case 8:
		return "error " + e.Error.GetSource()
	case 9:
		return fmt.Sprintf("container %d %v", e.ContainerMetric.GetInstanceIndex(), e.ContainerMetric.GetCpuPercentage())
	}
	return "unknown"
}

// socket is a client that sees frames as they are, and answers nothing by itself.
type socket struct {
	net.Conn
	r *bufio.Reader
}

// dial makes a WebSocket, or returns the response that refused it.
func dial(t testing.TB, n *pipenet.Net, path string, header http.Header) (*socket, *http.Response) {
	t.Helper()
	c, err := n.Dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: doppler\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", path)
	header.Write(c)
	io.WriteString(c, "\r\n")
	s := &socket{c, bufio.NewReader(c)}
	resp, err := http.ReadResponse(s.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, resp
	}
	return s, resp
}

const (
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
)

// frame reads one frame, of the first fragment of which it must be all.
func (s *socket) frame(t testing.TB) (op byte, p []byte, err error) {
	t.Helper()
	var h [10]byte
	if _, err := io.ReadFull(s.r, h[:2]); err != nil {
		return 0, nil, err
	}
	if h[0]&0xf0 != 0x80 || h[1]&0x80 != 0 {
		t.Errorf("a frame begins with %x", h[:2])
	}
	n := uint64(h[1])
	op = h[0] & 0xf
	switch n {
	case 126:
		io.ReadFull(s.r, h[:2])
		n = uint64(binary.BigEndian.Uint16(h[:2]))
	case 127:
		io.ReadFull(s.r, h[:8])
		n = binary.BigEndian.Uint64(h[:8])
	}
	p = make([]byte, n)
	_, err = io.ReadFull(s.r, p)
	return op, p, err
}

// send sends a short frame, masked with zeros.
func (s *socket) send(op byte, p []byte) {
	s.Write(append([]byte{0x80 | op, 0x80 | byte(len(p)), 0, 0, 0, 0}, p...))
}

// message reads the next binary message, and answers pings.
func (s *socket) message(t testing.TB) string {
	t.Helper()
	for {
		op, p, err := s.frame(t)
		switch {
		case err != nil:
			return err.Error()
		case op == opPing:
			s.send(opPong, p)
		case op == opClose:
			s.send(opClose, p)
			return fmt.Sprintf("close %d %s", binary.BigEndian.Uint16(p), p[2:])
		case op == opBinary:
			return what(t, p)
		default:
			return fmt.Sprintf("opcode %d", op)
		}
	}
}

// book authorizes by token.
type book map[string]access.Grant

func (b book) Authorize(_ context.Context, token string, sel []envelope.Selector) (access.Grant, error) {
	g, ok := b[token]
	if !ok {
		return access.Grant{}, access.ErrToken
	}
	if g.Select == nil {
		g.Select = sel
		return g, nil
	}
	var err error
	g.Select, err = access.Within(sel, g.Select)
	return g, err
}
