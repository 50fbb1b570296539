package rlpgateway

import "github.com/cloudfoundry/loggregator/envelope"

// place is where a reader stands, as the id of events.
type place struct {
	cursor envelope.Cursor
	dirty  bool // has moved since the last id
	sent   bool // there was an id
	since  int  // bytes of events since then
	off    bool // there are none any more
}

const (
	// maxPlaces bounds the rings and streams of an id, and maxID its length, in
	// bytes: it comes back as a header, for which servers have less and less room.
	maxPlaces = 400
	maxID     = 16 << 10
	// placeSize is about how long an id becomes with each of them.
	placeSize = 22
	// An id shorter than shortID stands with every event. A longer one takes one
	// part in idShare of what is sent.
	shortID = 320
	idShare = 8
)

// advance moves past b.
func (p *place) advance(b envelope.Batch) {
	if p.off || b.Ring == 0 && b.Stream == 0 {
		return
	}
	p.cursor.Advance(b)
	p.dirty = true
	if len(p.cursor.Rings)+len(p.cursor.Streams) > maxPlaces {
		p.off, p.cursor = true, envelope.Cursor{}
	}
}

// due reports whether there should soon be an id: after an event without one, and
// at the start, for a client that is cut before it got anything.
func (p *place) due() bool { return p.dirty && (!p.sent || p.since > 0) }

// with is the id to stand with an event of n bytes, or nothing.
func (p *place) with(n int) []byte {
	p.since += n
	if size := placeSize * (len(p.cursor.Rings) + len(p.cursor.Streams)); size > shortID && p.since < idShare*size {
		return nil
	}
	return p.id()
}

// id is the line of an id, or nothing. Where there are none any more, it is an
// empty one once, so that the client does not go on far behind.
func (p *place) id() []byte {
	switch {
	case !p.dirty:
		return nil
	case p.off:
		p.dirty = false
		if !p.sent {
			return nil
		}
		return []byte("id:\n")
	}
	p.dirty, p.sent, p.since = false, true, 0
	return append(append([]byte("id: "), p.cursor.String()...), '\n')
}
