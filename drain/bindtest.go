package drain

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	testTime = 5 * time.Second // for one test
	maxTests = 128             // at the same time
	// afterwards is how long a connection stays open after a test line, to see
	// whether the receiver closes it.
	afterwards = 300 * time.Millisecond
	tellTime   = 5 * time.Second // for the line that tells an application
)

// Verdict is how the test of a new binding went.
type Verdict struct {
	Time  time.Time `json:"time"`
	OK    bool      `json:"ok"`
	Cause Cause     `json:"cause,omitempty"` // of what failed
	Text  string    `json:"text"`
}

// queue is the tests that wait, and how many run.
type queue struct {
	waiting []func()
	running int
}

// test tests a new binding, besides its drain: that may have nothing to send for
// long. The caller holds s.mu.
func (s *Set) test(g *group, b *bound) {
	s.tests.waiting = append(s.tests.waiting, func() {
		v := testBinding(s.stopping, b.Binding, g.opts)
		if s.stopping.Err() != nil {
			return
		}
		s.mu.Lock()
		b.verdict = &v
		removed := b.removed
		s.mu.Unlock()
		if removed {
			return
		}
		works := "works: "
		if !v.OK {
			works = "does not work: "
			s.log.Warn("new drain does not work", "drain", b.drain.String(), "error", v.Text)
		}
		s.tell(g, b.Binding, works+v.Text)
	})
	if s.tests.running == maxTests {
		return
	}
	s.tests.running++
	s.wg.Go(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for len(s.tests.waiting) > 0 && !s.closed {
			next := s.tests.waiting[0]
			s.tests.waiting = s.tests.waiting[1:]
			s.mu.Unlock()
			next()
			s.mu.Lock()
		}
		s.tests.running--
	})
}

// tell writes a line to the application that a binding is for, in its own stream,
// if it is for one and there is a way to.
func (s *Set) tell(g *group, b Binding, what string) {
	if g.opts.Tell == nil || b.SourceID == "" {
		return
	}
	url := "unknown"
	if t, err := parseURL(b.URL); err == nil {
		url = t.String()
	}
	id := envelope.Identity{SourceID: b.SourceID, InstanceID: "0", Tags: map[string]string{envelope.TagSourceType: envelope.SourceTypeLGR}}
	record := envelope.AppendLog(nil, id.Encode(), time.Now().UnixNano(), envelope.Err, fmt.Appendf(nil, "The syslog drain with url %s %s", url, what))
	s.wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, tellTime)
		defer cancel()
		if err := g.opts.Tell.WriteBatch(ctx, envelope.Batch{Records: record, Count: 1}); err != nil && s.ctx.Err() == nil {
			s.log.Warn("the application could not be told of its drain", "error", err)
		}
	})
}

// testBinding resolves the name, connects, shakes hands and sends one line that
// says what it is, all by a drain of one record.
func testBinding(ctx context.Context, b Binding, o *Options) Verdict {
	ctx, cancel := context.WithTimeout(ctx, testTime)
	defer cancel()
	began := time.Now()
	fail := func(cause Cause, text string) Verdict {
		return Verdict{Time: time.Now(), Cause: cause, Text: text}
	}
	t, err := parseURL(b.URL)
	if err != nil {
		return fail(CauseNone, err.Error())
	}
	o, err = b.options(o)
	if err != nil {
		return fail(CauseTLS, err.Error())
	}
	quiet := *o
	quiet.Tell, quiet.Logger = nil, nil
	quiet.Backoff = func(int) time.Duration { return testTime } // the first failure is the verdict
	record := testRecord(t, b)
	if record == nil {
		return Verdict{Time: time.Now(), OK: true, Text: "its URL filters out what a test could send, so nothing was tested"}
	}
	q, _ := b.query()
	d, err := Open(b.URL, oneRecord(record), envelope.Query{Select: q.Select, History: true}, &quiet)
	if err != nil {
		cause := CauseNone
		if errors.Is(err, ErrDenied) {
			cause, err = CauseDenied, ErrDenied
		}
		return fail(cause, err.Error())
	}
	defer d.Close()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var delivered time.Time
	for {
		select {
		case <-ctx.Done():
			return fail(CauseTimeout, fmt.Sprintf("no answer within %v", testTime))
		case <-tick.C:
		}
		s := d.Stats()
		switch {
		case s.Refused > 0:
			return fail(CauseAnswer, "the receiver refused a test line")
		case s.Failures > 0 && s.Cause == CauseClosed && !t.https():
			text := "the receiver closed the connection with the test line"
			if t.scheme == "syslog" {
				text += ": perhaps it expects TLS, with a URL that begins with syslog-tls"
			}
			return fail(s.Cause, text)
		case s.Failures > 0 && s.LastError != "":
			return fail(s.Cause, s.LastError)
		case s.Delivered == 0:
			continue
		case delivered.IsZero():
			delivered = time.Now()
		}
		if !t.https() && time.Since(delivered) < afterwards {
			continue // a receiver that does not like what it got closes now
		}
		if err := d.Shutdown(ctx); err != nil {
			return fail(CauseTimeout, err.Error())
		}
		text := fmt.Sprintf("it took a test line after %v", delivered.Sub(began).Round(time.Millisecond))
		if !s.Expires.IsZero() {
			text += ", and its certificates are good until " + s.Expires.UTC().Format("2006-01-02")
		}
		return Verdict{Time: time.Now(), OK: true, Text: text}
	}
}

const testText = "Loggregator tests this drain, which is new. What applications log follows."

// testRecord is a record that goes through the filter of a drain's URL, or nil.
func testRecord(t *target, b Binding) []byte {
	id := envelope.Identity{SourceID: b.SourceID, InstanceID: "0"}
	if id.SourceID == "" {
		id.SourceID = "loggregator"
	}
	now := time.Now().UnixNano()
	var candidates [][]byte
	for _, sourceType := range []string{envelope.SourceTypeLGR, "APP", "RTR", "STG", "API", "SSH", "CELL"} {
		id.Tags = map[string]string{envelope.TagSourceType: sourceType}
		candidates = append(candidates, envelope.AppendLog(nil, id.Encode(), now, envelope.Out, []byte(testText)))
	}
	candidates = append(candidates,
		envelope.AppendCounter(nil, id.Encode(), now, "drain_test", 1, 1),
		envelope.AppendTimer(nil, id.Encode(), now, "drain_test", now, now),
		envelope.AppendEvent(nil, id.Encode(), now, "drain test", testText))
	for _, record := range candidates {
		if e, _, err := envelope.Next(record); err == nil {
			if r, err := e.Route(); err == nil && t.filter.wants(e, &r) {
				return record
			}
		}
	}
	return nil
}

// oneRecord is a source that holds one record.
type oneRecord []byte

func (record oneRecord) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	const ring = 1
	return func(yield func(envelope.Batch, error) bool) {
		if q.Cursor.Rings[ring] < 2 {
			b := envelope.Batch{Records: append([]byte(nil), record...), Count: 1, Stream: ring, First: 1, Next: 2, Ring: ring, Position: 2}
			if !yield(b, nil) {
				return
			}
		}
		if q.Follow {
			<-ctx.Done()
			yield(envelope.Batch{}, ctx.Err())
		}
	}
}
