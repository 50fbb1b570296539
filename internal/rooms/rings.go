package rooms

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/ops"
)

// Rings are the recent logs.
type Rings struct {
	p *Process

	budget, memory int64
	dir            string
	maxAge         time.Duration

	router *loggregator.Router
	last   uint64 // records held at the end
	heap   int64  // bytes for everything but the rings
}

// NewRings adds the flags of the rings.
func NewRings(p *Process) *Rings {
	r := &Rings{p: p}
	fs := p.Flags
	daemon.SizeVar(fs, &r.budget, "budget", 256<<20, "`bytes` of memory for recent logs, as 256MiB, at least 1MiB")
	daemon.SizeVar(fs, &r.memory, "memory", 0, "`bytes` of memory that the whole process shall stay within, as 1GiB; 0 is half as much again as -budget, and 256MiB")
	fs.StringVar(&r.dir, "recent-dir", "", "`directory` in which recent logs outlive the process, as files mapped into memory, of -budget bytes; empty keeps them in memory only")
	fs.DurationVar(&r.maxAge, "max-age", time.Hour, "how long logs are kept")
	p.checks = append(p.checks, r.check)
	return r
}

// minHeap is what a server needs beside its rings, in bytes.
const minHeap = 64 << 20

func (r *Rings) check() error {
	var errs []error
	if r.budget < 1<<20 {
		errs = append(errs, errors.New("-budget: at least 1MiB is needed"))
	}
	if r.maxAge <= 0 {
		errs = append(errs, errors.New("-max-age: must be more than 0"))
	}
	if r.memory != 0 && r.memory < r.budget+minHeap {
		errs = append(errs, fmt.Errorf("-memory: %v is not enough for -budget and the %v that the rest needs at least", (*daemon.Size)(&r.memory), new(daemon.Size(minHeap))))
	}
	if r.dir != "" {
		if info, err := os.Stat(filepath.Dir(filepath.Clean(r.dir))); err != nil || !info.IsDir() {
			errs = append(errs, fmt.Errorf("-recent-dir: %s cannot be made: there is no %s", r.dir, filepath.Dir(filepath.Clean(r.dir))))
		}
	}
	r.heap = r.memory - r.budget
	if r.memory == 0 {
		r.heap = r.budget/2 + 256<<20
	}
	return errors.Join(errs...)
}

// Open makes the router, and bounds the process's memory: the rings are outside
// of Go's heap, and the rest is the heap's. A GOMEMLIMIT in the environment holds.
func (r *Rings) Open() (*loggregator.Router, error) {
	var err error
	if r.router, err = loggregator.Open(&loggregator.Options{Budget: r.budget, MaxAge: r.maxAge, Dir: r.dir}); err != nil {
		return nil, fmt.Errorf("-recent-dir: %w", err)
	}
	if debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit(r.heap)
	}
	p := r.p
	p.onStop(phaseRings, "rings", func(ctx context.Context) error {
		r.last = r.router.Stats().Held
		return r.router.Shutdown(ctx)
	}, nil)
	p.onPulse("rings", func() { r.router.Stats() })
	p.figures = append(p.figures, r.figures)
	p.reports = append(p.reports, r.report)
	if r.dir != "" {
		found := r.router.Recovery()
		if found.Blocks > 0 || len(found.Unusable) > 0 || found.Missing > 0 {
			p.Log.Warn("not all of the recent logs could be read; what is lost is cut out, and readers are told", "dir", r.dir,
				"damaged_blocks", found.Blocks, "known_lost_records", found.Cut, "unusable_files", found.Unusable, "missing_files", found.Missing)
		}
		p.say("recent", "%s holds %d records of %d sources from before", r.dir, found.Records, found.Rings)
	}
	return r.router, nil
}

// Dir is the directory of -recent-dir, or empty.
func (r *Rings) Dir() string { return r.dir }

// report says at the end what became of all records.
func (r *Rings) report(out io.Writer) {
	s := r.router.Stats()
	fmt.Fprintf(out, "Stopped. Took in %d records, refused %d, was told of %d lost on the way; readers got %d and were told of %d missed.\n",
		s.Accepted, s.Malformed+s.TooLarge+s.BadSourceID+s.MixedSource+s.NoRoom, s.Lost, s.Delivered, s.Missed)
	switch {
	case r.last == 0:
	case r.dir != "":
		fmt.Fprintf(out, "The rings' %d records are kept in %s.\n", r.last, r.dir)
	default:
		fmt.Fprintf(out, "The rings' %d records are gone with the process; -recent-dir would keep them.\n", r.last)
	}
}

func (r *Rings) figures(add func(ops.Metric)) {
	figure := func(name, help string, value float64, labels ...string) {
		add(ops.Metric{Name: name, Help: help, Value: value, Labels: labels})
	}
	s := r.router.Stats()
	const in = "Records that arrived at the rings, by what became of them."
	for outcome, n := range map[string]uint64{
		"accepted": s.Accepted, "repeated": s.Repeated, "malformed": s.Malformed, "too_large": s.TooLarge,
		"bad_source_id": s.BadSourceID, "mixed_source": s.MixedSource, "no_room": s.NoRoom,
	} {
		figure("records_in_total", in, float64(n), "outcome", outcome)
	}
	for why, n := range s.LostFor {
		figure("records_lost_total", "Records lost before they arrived, as their senders or their numbers tell, by reason.", float64(n), "reason", envelope.Reason(why).String())
	}
	figure("records_marked_total", "Lines added that tell of lost records.", float64(s.Marked))
	const gone = "Records given up by the rings, by reason."
	figure("records_gone_total", gone, float64(s.Evicted), "reason", "budget")
	figure("records_gone_total", gone, float64(s.Expired), "reason", "age")
	figure("records_gone_total", gone, float64(s.Released), "reason", "released")
	figure("records_recovered_total", "Records found in -recent-dir at the start.", float64(s.Recovered))
	figure("recent_dir_errors_total", "Writes to -recent-dir that failed; its files will not be whole.", float64(s.DirErrors))
	figure("records_held", "Records in the rings.", float64(s.Held))
	figure("bytes_held", "Bytes of the records in the rings.", float64(s.Bytes))
	figure("budget_bytes", "Memory that the rings may take.", float64(s.Budget))
	figure("budget_used_bytes", "Memory that the rings take.", float64(s.Used))
	figure("heap_limit_bytes", "Memory that the process may take beside the rings before it collects garbage harder.", float64(debug.SetMemoryLimit(-1)))
	figure("sources", "Sources that have a ring.", float64(s.Sources))
	figure("readers", "Readers of the rings: tails, dumps, drains.", float64(s.Readers))
	r.sources(figure)
	figure("records_read_total", "Records handed to readers, each reader counted.", float64(s.Delivered))
	figure("records_missed_total", "Records that readers were told they missed, each reader counted.", float64(s.Missed))
}

// talkers is how many sources have figures of their own: those that hold the most,
// which are those that say the most.
const talkers = 10

// sources adds the figures that are of single sources.
func (r *Rings) sources(figure func(name, help string, value float64, labels ...string)) {
	var top []envelope.SourceInfo // most first
	oldest := int64(0)
	for s := range r.router.Sources(envelope.Everything) {
		if s.Held > 0 && (oldest == 0 || s.Oldest < oldest) {
			oldest = s.Oldest
		}
		if len(top) == talkers && s.Bytes <= top[talkers-1].Bytes {
			continue
		}
		at, _ := slices.BinarySearchFunc(top, s, func(a, b envelope.SourceInfo) int { return cmp.Compare(b.Bytes, a.Bytes) })
		top = slices.Insert(top, at, s)[:min(talkers, len(top)+1)]
	}
	age := 0.0
	if oldest > 0 {
		age = max(0, time.Since(time.Unix(0, oldest)).Seconds())
	}
	figure("oldest_record_age_seconds", "Age of the oldest record in the rings, by its own timestamp.", age)
	for _, s := range top {
		if s.Held == 0 {
			continue
		}
		labels := []string{"source_id", text(s.SourceID), "app", text(s.App), "space", text(s.Space), "org", text(s.Org)}
		figure("top_source_bytes_held", "Bytes held of the ten sources of which most is held.", float64(s.Bytes), labels...)
		figure("top_source_records_total", "Records that these have brought since their rings were made.", float64(s.Held+s.Gone), labels...)
	}
}

// text is what senders say, as a label may.
func text(s string) string { return strings.ToValidUTF8(s, "?") }
