package transport

import (
	"github.com/cloudfoundry/loggregator/envelope"
)

// inquiry asks a server how far the ring of one source reaches there. By that it is
// known, however much comes from the server all the time, when all that it took of
// the source before the question has been given.
type inquiry struct {
	of   *readSession
	st   *stream // nil: it has been answered
	ring envelope.StreamID
	end  uint64 // position behind the newest record; 0: it does not know the source
}

// inquiryKey is whom is asked for what.
type inquiryKey struct {
	from  *part
	maker envelope.StreamID
	upTo  uint64
}

// maxInquiries bounds those of a tail that wait for their answer, and maxAnswers those
// that are remembered.
const (
	maxInquiries = 64
	maxAnswers   = 16 << 10
)

// inquire reports what o has of the source of h beyond what was given: nothing, or
// something; sure is false as long as that is not known.
func (t *tail) inquire(o *part, h *head) (more, sure bool) {
	if h.source == "" || o.st == nil {
		return false, false
	}
	key := inquiryKey{o, h.maker, h.upTo}
	q := t.asked[key]
	if q != nil && q.of != o.st.s {
		t.forget(q)
		q = nil
	}
	if q == nil {
		if t.asking >= maxInquiries {
			return false, false
		}
		if len(t.asked) >= maxAnswers {
			for _, q := range t.asked {
				t.forget(q)
			}
			clear(t.asked)
		}
		t.asking++
		q = &inquiry{of: o.st.s}
		q.st = o.st.s.begin(modeSources, &envelope.Query{Select: []envelope.Selector{{SourceID: h.source}}}, t.watch.changed)
		if t.asked == nil {
			t.asked = make(map[inquiryKey]*inquiry)
		}
		t.asked[key] = q
	}
	if !t.answered(q) {
		return false, false
	}
	given, known := t.at.Rings[q.ring]
	switch {
	case q.end == 0 || known && q.end <= given:
		return false, true
	case !known && !t.q.History && !t.resumed:
		return false, false // what is there may be older than the tail
	}
	// What comes next of the ring may have come, and wait itself: for h, or, where
	// several makers meet, for who knows what.
	for _, a := range o.aside {
		if a.batch.Ring == q.ring {
			return false, a.maker == h.maker && a.upTo >= h.upTo
		}
	}
	if l, ok := o.later[q.ring]; ok && !l.again {
		return false, l.maker == h.maker && l.upTo >= h.upTo
	}
	if o.has && o.head.batch.Ring == q.ring && o.head.batch.Stream == h.maker && o.head.batch.First >= h.upTo {
		return false, true
	}
	return true, true
}

// answered takes the answer if it has come.
func (t *tail) answered(q *inquiry) bool {
	if q.st == nil {
		return true
	}
	_, ended, code, _ := q.st.state()
	if !ended || code != endDone {
		return false // of a connection that was lost, there will be another
	}
	if buf, _ := q.st.take(); buf != nil {
		eachSource(*buf, func(s envelope.SourceInfo) bool {
			q.ring, q.end = s.Ring, s.Gone+1+s.Held
			return true
		})
		freeBuffer(buf)
	}
	t.forget(q)
	return true
}

func (q *inquiry) drop() {
	if q.st != nil {
		q.st.cancel()
		q.st = nil
	}
}

// forgetInquiries forgets what was asked for h, which is given.
func (t *tail) forgetInquiries(h *head) {
	for i := range t.parts {
		key := inquiryKey{&t.parts[i], h.maker, h.upTo}
		if q := t.asked[key]; q != nil {
			t.forget(q)
			delete(t.asked, key)
		}
	}
}

// forget ends an inquiry.
func (t *tail) forget(q *inquiry) {
	if q.st != nil {
		t.asking--
		q.drop()
	}
}

// firstSource is the source of a batch, if it has a record.
func firstSource(b *envelope.Batch) string {
	e, _, err := envelope.Next(b.Records)
	if err != nil {
		return ""
	}
	r, _ := e.Route()
	return string(r.SourceID)
}
