// Package gather puts records of several sources, as a foreign protocol mixes
// them, into one batch per source.
package gather

import (
	"context"

	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	// Full is from how many bytes of records of one source on everything should
	// be flushed. Records grow by what is said of each: many empty lines would be
	// a hundred times their size.
	Full = 256 << 10
	// keep bounds what an empty Batches holds on to, in bytes and in sources.
	keep       = 512 << 10
	keepGroups = 64
)

// Batches gathers. It is for one goroutine.
type Batches struct {
	w      envelope.Writer
	groups []*Group
	used   int // groups in use: groups[:used]
	by     map[string]*Group
	last   *Group
}

// Group is the records of one source. Whoever adds a record appends to Records
// and counts it.
type Group struct {
	source  string
	Records []byte
	Count   int
	Missed  uint64 // records that are known to be lost before these
	Reason  envelope.Reason
}

// New makes Batches that go to w.
func New(w envelope.Writer) *Batches {
	return &Batches{w: w, by: make(map[string]*Group)}
}

// Group is where records of source belong.
func (b *Batches) Group(source string) *Group {
	if b.last != nil && b.last.source == source {
		return b.last
	}
	g := b.by[source]
	if g == nil {
		if b.used == len(b.groups) {
			b.groups = append(b.groups, new(Group))
		}
		g = b.groups[b.used]
		b.used++
		g.source = source
		b.by[source] = g
	}
	b.last = g
	return g
}

// Flush hands over what is gathered, a batch per source, in the order in which
// the sources first came. It returns how many records the Writer took and, where
// it returned an error for a batch, how many it did not, and the last error.
func (b *Batches) Flush(ctx context.Context) (taken, lost uint64, err error) {
	size := 0
	for _, g := range b.groups[:b.used] {
		if g.Count > 0 || g.Missed > 0 {
			if e := b.w.WriteBatch(ctx, envelope.Batch{Records: g.Records, Count: g.Count, Missed: g.Missed, Reason: g.Reason}); e != nil {
				lost, err = lost+uint64(g.Count), e
			} else {
				taken += uint64(g.Count)
			}
		}
		if size += cap(g.Records); size > keep {
			g.Records = nil
		}
		g.source, g.Records, g.Count, g.Missed, g.Reason = "", g.Records[:0], 0, 0, 0
	}
	b.used, b.last = 0, nil
	clear(b.by)
	if len(b.groups) > keepGroups {
		clear(b.groups[keepGroups:])
		b.groups = b.groups[:keepGroups]
		b.by = make(map[string]*Group)
	}
	return taken, lost, err
}
