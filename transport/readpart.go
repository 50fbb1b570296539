package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// gapWait is how long a batch waits whose maker's numbers have a gap before it:
// another server may have what is missing, and be a little slower.
// For one that has just gone it waits until it is back or told to be away.
const (
	gapWait    = 500 * time.Millisecond
	maxGapWait = 10 * time.Second
	// maxLag is how long it waits for one that has something to give all that time:
	// the sequence lags behind, and what is missing may be in what is to be read.
	maxLag = 5 * time.Minute
)

// retryAfter is the pause after which a server that has ended a query although the
// connection lives is asked again.
const retryAfter = time.Second

// errAwayNow means a server without a connection.
var errAwayNow = errors.New("away")

// part is one server of a tail.
type part struct {
	t *tail
	m *remote

	st       *stream   // nil: away, or over
	since    time.Time // when it went away, or the sequence began
	retry    time.Time // not before
	opens    int
	current  bool      // all that the server had when it was opened last has been taken
	fresh    bool      // nothing has come since it was opened last
	reset    bool      // the server has another life, which is to be told with a record
	empty    time.Time // when it was seen last that nothing had come,
	answered uint64    // after so many answers to pings on the connection
	barrier  uint64    // pings, of which that is to show that nothing is under way
	taken    int       // bytes of bodies, ever
	sounded  int       // of those when the ping was sent
	late     bool      // it was not there when the sequence began
	told     bool      // that it is away
	begun    bool      // the tail's cursor holds where it stands there
	over     bool      // of a sequence that does not follow: there is no more
	lost     error     // why that is not all

	buf        *[]byte // whose bodies are being taken
	rest       []byte
	paid       bool // buf was granted anew when it was taken
	willCaught bool // when rest has been taken
	caught     bool // all that was there at the start has been taken

	queue   []*[]byte // held, until all servers have given their Last
	runs    []run     // numbers of the records in it
	held    int       // bytes of queue
	count   uint64    // records that came while holding
	leftOut uint64    // of those, that HoldBytes did not allow
	counted bool      // these are all

	has        bool // head is the batch to be given next
	head       head
	aside      []*head // batches that are early, and those behind them
	asideBytes int
	later      map[envelope.StreamID]later  // rings, see postpone
	laterAt    time.Time                    // they are not read again before
	passed     map[envelope.StreamID]uint64 // of makers, the first number in what was postponed
}

func (p *part) close() {
	if p.st != nil {
		p.st.cancel()
	}
	freeBuffer(p.buf)
	p.st, p.buf = nil, nil
	p.forget()
}

// serve opens the query on the server if that is there, and takes what has come.
func (p *part) serve(now time.Time) {
	if p.over {
		return
	}
	if p.st == nil && !p.has && !now.Before(p.retry) {
		if s := p.m.now(); s != nil {
			p.open(s)
		}
	}
	if p.st == nil && !p.told && now.Sub(p.since) >= p.t.r.opts.TellAfter {
		p.told = true
		if !p.t.q.Follow {
			p.giveUp(errAwayNow)
			return
		}
		p.t.line(fmt.Sprintf("server %s cannot be reached: lines that it holds are missing until it is back", p.m.target))
	}
	if p.st != nil {
		p.fill(now)
		p.resume(now)
	}
}

func (p *part) giveUp(why error) {
	p.over, p.lost = true, why
	p.t.line(fmt.Sprintf("server %s cannot be reached: lines that it holds are missing here", p.m.target))
}

// due is when serve or pick has something to do without news.
func (p *part) due(now time.Time) (at time.Time) {
	switch {
	case p.over:
	case p.has && !p.head.early.IsZero():
		at = soon(p.head.early, now)
	case len(p.aside) > 0:
		at = soon(p.aside[0].early, now)
	case p.st != nil && len(p.later) > 0:
		at = now.Add(laterEvery)
		if p.laterAt.After(at) {
			at = p.laterAt
		}
	case p.st == nil:
		if !p.told {
			at = p.since.Add(p.t.r.opts.TellAfter)
		}
		if p.m.now() != nil && (at.IsZero() || p.retry.Before(at)) {
			at = p.retry
			if at.Before(now) { // it is there already
				at = now
			}
		}
	}
	return at
}

// soon is when to look again at a batch that waits since then.
func soon(since, now time.Time) time.Time {
	return now.Add(min(2*time.Millisecond+now.Sub(since)/4, gapWait/5))
}

func (p *part) open(s *readSession) {
	q := p.query()
	p.opens++
	p.aside, p.asideBytes = nil, 0 // they come again
	p.fresh, p.current, p.barrier, p.sounded = p.t.q.Follow, false, 0, p.taken
	p.st = s.begin(modeRead, &q, p.t.watch.changed)
	if p.told {
		p.told = false
		p.t.line(fmt.Sprintf("server %s is back", p.m.target))
	}
}

// query is what the server is asked.
func (p *part) query() envelope.Query {
	q := p.t.q
	q.Where = nil
	q.Cursor = p.t.at
	switch {
	case p.begun && !q.Until.IsZero():
		q.Last, q.First = 0, 0
	case p.begun:
		q.Last, q.Since, q.History = 0, time.Time{}, false
	case !q.Follow, p.opens == 0 && !p.late, q.Last > 0 && p.t.holding:
	default: // it comes late, or was lost before it began
		if q.Last = 0; q.Since.IsZero() && !q.History && !p.t.resumed {
			q.Since = p.t.opened
		}
	}
	if !p.begun && !p.t.resumed && len(q.Cursor.Streams) == 0 {
		q.Cursor = envelope.Cursor{} // of other servers only, which would look like one of a former life of this
	}
	if len(q.Cursor.Streams) > 0 && len(p.t.parts) > 1 {
		// A server by itself cannot tell what of a maker's numbers is missing, and
		// what another one has given, or will: that is for seam. It is told that
		// makers are known, since rings alone would be no more worth to it than that
		// what is lost cannot be counted.
		q.Cursor.Streams = map[envelope.StreamID]uint64{nobody: 0}
	}
	return q
}

// nobody is no maker's stream.
const nobody envelope.StreamID = 1

// fill takes the next batch, if there is one.
func (p *part) fill(now time.Time) {
	for p.st != nil && !p.has && !p.t.holding {
		if len(p.rest) == 0 && !p.refill(now) {
			return
		}
		n, m := binary.Uvarint(p.rest)
		body := p.rest[m : m+int(n)]
		p.rest = p.rest[m+int(n):]
		p.taken += len(body)
		if !p.paid {
			p.st.grant(len(body))
		}
		b, err := envelope.ParseBatch(body)
		if err != nil {
			p.st.s.raw.Close()
			p.away(now)
			return
		}
		p.admit(b)
	}
}

// refill takes the next buffer. It is false if there is none.
func (p *part) refill(now time.Time) bool {
	freeBuffer(p.buf)
	p.buf, p.rest = nil, nil
	if p.willCaught {
		p.caught, p.current, p.begun = true, true, true
	}
	if len(p.queue) > 0 {
		p.buf, p.queue = p.queue[0], p.queue[1:]
		p.rest, p.paid = *p.buf, true
		return true
	}
	p.queue = nil
	answered := p.st.s.pongs.Load()
	caught, ended, code, text := p.st.state() // before take, so that it is of what that takes
	p.willCaught = caught
	if p.buf, _ = p.st.take(); p.buf != nil {
		p.rest, p.paid = *p.buf, false
		return true
	}
	p.empty, p.answered = now, answered
	if caught {
		p.caught, p.current, p.begun = true, true, true
	}
	if ended {
		p.ended(now, code, text)
	}
	return false
}

// ended heeds that the query is over at the server.
func (p *part) ended(now time.Time, code byte, text string) {
	switch {
	case code == endDone && !p.t.q.Follow:
		p.st.drop()
		p.st, p.over, p.caught = nil, true, true
	case code == endRefused:
		p.st.drop()
		p.st, p.over, p.lost = nil, true, fmt.Errorf("%w: %s", ErrRefused, text)
	case !p.t.q.Follow && p.begun:
		p.st.drop()
		p.st = nil
		p.giveUp(errors.New(text))
	default:
		p.away(now)
		if code != endLost {
			p.retry = now.Add(retryAfter)
		}
	}
}

// away notes that the server is to be asked again when it is there.
func (p *part) away(now time.Time) {
	p.st.cancel()
	p.st, p.since = nil, now
	freeBuffer(p.buf)
	p.buf, p.rest, p.willCaught = nil, nil, false
	p.forget()
	for ring, l := range p.later {
		l.again = true
		p.later[ring] = l
	}
}

// forget throws away what is held.
func (p *part) forget() {
	for _, buf := range p.queue {
		freeBuffer(buf)
	}
	p.queue, p.runs, p.held, p.count, p.leftOut, p.counted = nil, nil, 0, 0, 0, false
}
