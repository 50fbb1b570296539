// Package gather puts records of several sources, as a foreign protocol mixes
// them, into one batch per source.
package gather

import (
	"context"
	"strings"

	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	// limit is from how many bytes of records on they should be flushed. Records
	// grow by what is said of each: many empty lines would be a hundred times
	// their size.
	limit = 256 << 10
	// keep bounds the memory that an empty Batches holds on to for records, in
	// bytes, and keepSources the names.
	keep        = 512 << 10
	keepSources = 256
)

// Batches gathers. It is for one goroutine.
type Batches struct {
	w     envelope.Writer
	by    map[string]*Group
	used  []*Group // that have something to flush, in the order in which they came
	last  *Group
	size  int      // bytes of records gathered
	spare [][]byte // memory for records
	kept  int      // bytes of it
}

// Group is the records of one source. Whoever adds a record appends it to
// Records, and then says so: see Batches.Added.
type Group struct {
	source  string
	used    bool
	counted int // bytes of Records that are in Batches.size
	count   int
	Records []byte
	Missed  uint64 // records that are known to be lost before these
	Reason  envelope.Reason
}

// New makes Batches that go to w.
func New(w envelope.Writer) *Batches {
	return &Batches{w: w, by: make(map[string]*Group)}
}

// Group is where records of source belong, until the next Flush. It does not
// keep source, which may be a view of memory that is used again.
func (b *Batches) Group(source string) *Group {
	if b.last != nil && b.last.source == source {
		return b.last
	}
	g := b.by[source]
	if g == nil {
		g = &Group{source: strings.Clone(source)}
		b.by[g.source] = g
	}
	if !g.used {
		g.used = true
		b.used = append(b.used, g)
		if n := len(b.spare); n > 0 {
			g.Records, b.spare = b.spare[n-1], b.spare[:n-1]
			b.kept -= cap(g.Records)
		}
	}
	b.last = g
	return g
}

// Added counts the record that was just appended to g.Records, and reports
// whether it is time to flush.
func (b *Batches) Added(g *Group) (full bool) {
	g.count++
	b.size += len(g.Records) - g.counted
	g.counted = len(g.Records)
	return b.size >= limit
}

// Empty reports whether g has no record yet.
func (g *Group) Empty() bool { return g.count == 0 }

// Flush hands over what is gathered, a batch per source, in the order in which
// the sources first came. It returns how many records the Writer took and, where
// it returned an error for a batch, how many it did not, and the last error.
func (b *Batches) Flush(ctx context.Context) (taken, lost uint64, err error) {
	for _, g := range b.used {
		if g.count > 0 || g.Missed > 0 {
			if e := b.w.WriteBatch(ctx, envelope.Batch{Records: g.Records, Count: g.count, Missed: g.Missed, Reason: g.Reason}); e != nil {
				lost, err = lost+uint64(g.count), e
			} else {
				taken += uint64(g.count)
			}
		}
		if n := cap(g.Records); n > 0 && b.kept+n <= keep {
			b.spare, b.kept = append(b.spare, g.Records[:0]), b.kept+n
		}
		*g = Group{source: g.source}
	}
	clear(b.used)
	b.used, b.last, b.size = b.used[:0], nil, 0
	if len(b.by) > keepSources {
		b.by, b.used = make(map[string]*Group), nil
	}
	return taken, lost, err
}
