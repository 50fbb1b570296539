package rlpgateway

import (
	"bufio"
	"context"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/envelope/envelopepb"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// script is a Source that yields given batches, whatever is asked, and then what
// is sent on more, until that is closed or the reader leaves.
type script struct {
	batches []envelope.Batch
	more    chan envelope.Batch
	err     error // ends the sequence when more is closed

	mu      sync.Mutex
	queries []envelope.Query
	left    int // sequences that have ended
}

func (s *script) Known([]envelope.Selector) bool { return true }

func (s *script) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	s.mu.Lock()
	s.queries = append(s.queries, q)
	s.mu.Unlock()
	return func(yield func(envelope.Batch, error) bool) {
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.left++
		}()
		for _, b := range s.batches {
			if !yield(b, nil) {
				return
			}
		}
		for {
			select {
			case b, ok := <-s.more:
				if !ok {
					if s.err != nil {
						yield(envelope.Batch{}, s.err)
					}
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
	}
}

// lines makes a batch of n lines that say their number.
func lines(first uint64, n int) envelope.Batch {
	id := envelope.Identity{SourceID: "web", InstanceID: "0", Tags: map[string]string{"source_type": "APP/PROC/WEB"}}.Encode()
	b := envelope.Batch{Count: n, Stream: 7, First: first, Next: first + uint64(n), Ring: 7, Position: first + uint64(n)}
	for i := range uint64(n) {
		b.Records = envelope.AppendLog(b.Records, id, 1378000000000000000, envelope.Out, []byte("line "+strconv.FormatUint(first+i, 10)))
	}
	return b
}

func metrics(counters, gauges []string) envelope.Batch {
	id := envelope.Identity{SourceID: "web"}.Encode()
	var b envelope.Batch
	for _, name := range counters {
		b.Records = envelope.AppendCounter(b.Records, id, 1, name, 1, 2)
		b.Count++
	}
	for _, set := range gauges {
		var m []envelope.Metric
		for name := range strings.SplitSeq(set, ",") {
			m = append(m, envelope.Metric{Name: []byte(name), Value: 1})
		}
		b.Records = envelope.AppendGauge(b.Records, id, 1, m...)
		b.Count++
	}
	return b
}

// frame is one block of a stream of events, as a reader of the standard sees it.
type frame struct {
	event, id string
	hasID     bool
	data      string
	comments  []string
}

// events reads a stream of events (HTML, section 9.2.6).
type events struct {
	r    *bufio.Reader
	last string // the last id
}

func (e *events) next(t testing.TB) (f frame, ok bool) {
	t.Helper()
	for {
		line, err := e.r.ReadString('\n')
		if err != nil {
			if line != "" {
				return frame{}, false
			}
			return frame{}, false
		}
		line = line[:len(line)-1]
		if strings.HasSuffix(line, "\r") {
			t.Errorf("a line ends with CRLF: %q", line)
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if f.hasID {
				e.last = f.id
			}
			return f, true
		case field == "":
			f.comments = append(f.comments, value)
		case field == "event":
			f.event = value
		case field == "id":
			f.id, f.hasID = value, true
		case field == "data":
			f.data += value
		default:
			t.Errorf("unknown field: %q", line)
		}
	}
}

// batch decodes what a frame holds, strictly.
func (f *frame) batch(t testing.TB) []*envelopepb.Envelope {
	t.Helper()
	var b envelopepb.EnvelopeBatch
	if err := protojson.Unmarshal([]byte(f.data), &b); err != nil {
		t.Fatalf("%v: %q", err, f.data)
	}
	return b.Batch
}

func open(t testing.TB, c *http.Client, target, lastID string) (*http.Response, *events) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s: %s", resp.Status, body)
	}
	return resp, &events{r: bufio.NewReader(resp.Body)}
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

func bufioReader(r io.Reader) *bufio.Reader { return bufio.NewReader(r) }
