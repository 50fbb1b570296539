package envelope

import (
	"context"
	"encoding/base64"
	"errors"
	"iter"
	"maps"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Writer takes batches: a router, a link to another process, a drain, a test's
// slice.
//
// The batch and its memory are borrowed until WriteBatch returns; a Writer that
// keeps them copies them. WriteBatch may block until ctx ends where its
// implementation says so. An error means that the batch as a whole was not
// taken; records of it that were refused one by one are counted by the Writer
// and are no error. After its Close, a Writer returns an error, it does not
// panic or hang. Writers may be used by several goroutines at once unless they
// say otherwise; the order of one goroutine's batches is kept.
type Writer interface {
	WriteBatch(ctx context.Context, b Batch) error
}

// WriterFunc is a function as a Writer.
type WriterFunc func(ctx context.Context, b Batch) error

func (f WriterFunc) WriteBatch(ctx context.Context, b Batch) error { return f(ctx, b) }

// Source gives batches: a router, a link to another process.
//
// Batches yields what the query selects until it is exhausted, ctx ends, or the
// loop is left; an error is the last thing it yields, and a sequence that ends
// because ctx did yields ctx's error. A batch and its memory are borrowed until
// the next step. A batch may be empty: its Missed and Position count all the
// same. A sequence may be ranged over once.
//
// For every reader, each record the query selects is either yielded or counted
// in Missed, exactly once.
type Source interface {
	Batches(ctx context.Context, q Query) iter.Seq2[Batch, error]
}

// Selector describes records. Its fields must all hold; empty ones hold always,
// so the zero Selector describes everything.
type Selector struct {
	// Where the record's source belongs. A source that says so in its tags (see
	// TagAppName and its like) can be found by them; App, Space and Org are a
	// name or an id. A source without an application name is its source id's.
	SourceID string
	App      string
	Space    string
	Org      string

	// IDs makes App, Space and Org ids, never names: names are chosen by those who
	// log, so that somebody may name a space of his own like the id of another. A
	// source that says no application's id has its source id for one.
	IDs bool

	// What the record itself says.
	Stdout     bool   // logs of type OUT (and, if Stderr too, either)
	Stderr     bool   // logs of type ERR
	Kinds      []Kind // any of these
	Instance   string // instance id
	SourceType string // value of the tag source_type, or its first part ("APP" matches "APP/PROC/WEB")
}

// Everything is the selection of all records.
var Everything = []Selector{{}}

// ByRecord reports whether the selector looks at records one by one. If not, it
// selects whole sources, which costs nothing per record.
func (s *Selector) ByRecord() bool {
	return len(s.Kinds) > 0 || s.Stdout || s.Stderr || s.Instance != "" || s.SourceType != ""
}

// MatchRecord reports whether the record holds what the selector asks of
// records. Where the record's source belongs is not looked at.
func (s *Selector) MatchRecord(e Envelope, r *Route) bool {
	if len(s.Kinds) > 0 {
		ok := false
		for _, k := range s.Kinds {
			ok = ok || k == r.Kind
		}
		if !ok {
			return false
		}
	}
	if s.Stdout || s.Stderr {
		if r.Kind != KindLog || !(s.Stdout && r.LogType != Err || s.Stderr && r.LogType == Err) {
			return false
		}
	}
	if s.Instance != "" && s.Instance != string(r.InstanceID) {
		return false
	}
	if s.SourceType != "" {
		t, _ := e.Tag(TagSourceType)
		n := len(s.SourceType)
		if len(t) < n || string(t[:n]) != s.SourceType || len(t) > n && t[n] != '/' {
			return false
		}
	}
	return true
}

// Query says what a Source shall deliver, and from where. Its zero value selects
// nothing; Select is required.
//
// Where to start: at Cursor, if it is not empty; else with the Last records;
// else with the records since Since; else, if History, with the oldest record
// held; else now. Since beside a Cursor says where to start in rings that
// the cursor does not know, as far as it does not know the makers of their records
// either; without it they are read from the oldest record on.
type Query struct {
	Select []Selector // records that any of these describes

	Cursor  Cursor
	Last    int       // records that match, over all sources together, newest by timestamp
	Since   time.Time // by the records' own timestamps
	History bool

	// Until, if not zero, makes this a query of records by their own timestamps,
	// exactly: those from Since on and before Until, wherever they stand in the
	// order of arrival. Last are then the newest of them, First, if Last is zero,
	// the oldest, and with those come all that have the same timestamp as one of
	// them: whoever turns pages by timestamp would lose what a page cuts off. A
	// Source of several others may give those of each, and a record that two of them
	// hold twice. Such a query does not Follow.
	Until time.Time
	First int

	// Follow goes on with what arrives. Without it the sequence ends with the
	// last record that was there at the start.
	Follow bool

	// Shard, if not empty, names a group of readers that follow and split the
	// sources of one selection between them: each source is read by one of them at
	// a time, and goes over to another without loss or repeat when readers come
	// and leave. Where to start is the first reader's choice.
	Shard string
	// Member, if not empty, names this reader within its Shard group: which sources
	// are its own then follows from the names of the members alone, in every
	// process and after every return.
	Member string

	// Where, if not nil, is asked of each source that the selection describes, and
	// of each that appears while following: those for which it is false are left
	// out of this sequence. It may be asked again of the same source, and must
	// answer the same, at once, and without use of the Source.
	Where func(sourceID string, ring StreamID) bool

	// ByTime merges the sources by timestamp: what is held at the start exactly;
	// what arrives later as far as it is there when the reader asks, since
	// waiting for more would delay everybody. Order within a source is order of
	// arrival always. Without ByTime sources take turns, which is cheaper.
	ByTime bool

	// Gather is how long after news the next are left to gather while following:
	// a reader that need not be told each at once costs less, and so does whoever
	// wakes it. What comes after a silence of Gather comes at once, and so does what
	// a reader that lags has yet to read. Zero gathers nothing.
	Gather time.Duration

	// MaxBytes bounds the records of one batch, unless a single record is
	// larger. Zero means 64 KiB.
	MaxBytes int
}

// Cursor is where a reader stands: for each ring it has read from the position
// to go on at, and for each maker of records the number of the first one not
// seen. The former is exact while the ring lives. The latter finds the place
// again after the ring's process was replaced and the makers went on sending:
// what was seen is not repeated, and what is lost is counted.
//
// The zero Cursor is empty.
type Cursor struct {
	Rings   map[StreamID]uint64
	Streams map[StreamID]uint64
}

// MaxCursor bounds how many rings and streams a Cursor may hold that comes from
// outside.
const MaxCursor = 100_000

// IsZero reports whether the cursor is empty.
func (c Cursor) IsZero() bool { return len(c.Rings) == 0 && len(c.Streams) == 0 }

// Clone returns a cursor of its own.
func (c Cursor) Clone() Cursor {
	return Cursor{Rings: maps.Clone(c.Rings), Streams: maps.Clone(c.Streams)}
}

// Advance moves the cursor past b.
func (c *Cursor) Advance(b Batch) {
	if b.Ring != 0 {
		if c.Rings == nil {
			c.Rings = make(map[StreamID]uint64)
		}
		c.Rings[b.Ring] = b.Position
	}
	if b.Stream != 0 && b.Stream != b.Ring {
		if c.Streams == nil {
			c.Streams = make(map[StreamID]uint64)
		}
		c.Streams[b.Stream] = b.Next
	}
}

// ErrCursor means a text that is no cursor.
var ErrCursor = errors.New("envelope: not a cursor")

// String is the cursor as text, for a URL or a file. It says nothing about what
// was read but numbers.
func (c Cursor) String() string {
	var m []byte
	m = appendPositions(m, 1, c.Rings)
	m = appendPositions(m, 2, c.Streams)
	return base64.RawURLEncoding.EncodeToString(m)
}

func appendPositions(m []byte, num protowire.Number, positions map[StreamID]uint64) []byte {
	var buf [32]byte
	for id, next := range positions {
		p := protowire.AppendTag(buf[:0], 1, protowire.Fixed64Type)
		p = protowire.AppendFixed64(p, uint64(id))
		p = appendNumber(p, 2, next)
		m = protowire.AppendTag(m, num, protowire.BytesType)
		m = protowire.AppendBytes(m, p)
	}
	return m
}

// ParseCursor reads what Cursor.String wrote.
func ParseCursor(s string) (Cursor, error) {
	m, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return Cursor{}, ErrCursor
	}
	c := Cursor{Rings: make(map[StreamID]uint64), Streams: make(map[StreamID]uint64)}
	for len(m) > 0 {
		num, v, rest, ok := consumeField(m)
		if !ok || num != 1 && num != 2 || len(c.Rings)+len(c.Streams) >= MaxCursor {
			return Cursor{}, ErrCursor
		}
		m = rest
		id, next, ok := parsePosition(v)
		if !ok {
			return Cursor{}, ErrCursor
		}
		if num == 1 {
			c.Rings[id] = next
		} else {
			c.Streams[id] = next
		}
	}
	return c, nil
}
