package follow

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
)

// Group is files that are treated alike.
type Group struct {
	// Paths describe the files. Those that Exclude describes are left out: globs
	// as of path.Match, for the whole path or, without a slash, for the name.
	Paths   []*Pattern
	Exclude []string
	// Join says which lines belong together; nil: each is a record.
	Join *Join
	// FromEnd reads files that were there before the follower was first started
	// from their end. All others are read from their beginning.
	FromEnd bool
	// MaxLine is the longest text of one record, see emitter.Options.
	MaxLine int

	// Identify says whose lines a file holds. vars is what the pattern remembers
	// of the path.
	Identify func(path string, vars map[string]string) (envelope.Identity, envelope.LogType, error)

	// Writer takes the records.
	Writer envelope.Writer
	// Repeats means that the Writer does not want numbered records, because it
	// leaves some out. Lines read again after a restart then come twice.
	Repeats bool
}

// how says all that decides what records a file's lines become.
func (g *Group) how() string {
	if g.Join != nil || g.Repeats {
		return "repeats"
	}
	return "lines " + strconv.Itoa(g.MaxLine)
}

// newStream draws the name of a run of numbers.
func newStream() envelope.StreamID {
	for {
		if id := envelope.StreamID(rand.Uint64()); id != 0 {
			return id
		}
	}
}

// numbered gives a file's records their numbers on the way to the group's Writer.
type numbered struct {
	f  *Follower
	fl *file
}

func (w numbered) WriteBatch(ctx context.Context, b envelope.Batch) error {
	fl, n := w.fl, uint64(b.Count)
	if fl.numbered() {
		b.Stream, b.First, b.Next = fl.stream, fl.number, fl.number+n
	}
	err := fl.group.Writer.WriteBatch(ctx, b)
	fl.number += n
	if err != nil {
		w.f.stats.Refused += n
	} else {
		w.f.stats.Records += n
	}
	return err
}

// newFile makes what is known of a file that is found.
func (f *Follower) newFile(g *Group, path, home string, id fileID, vars map[string]string) (*file, error) {
	identity, t, err := g.Identify(home, vars)
	if err != nil {
		return nil, err
	}
	fl := &file{group: g, path: path, home: home, id: id, vars: vars, stream: newStream(), number: 1, hot: true, hole: true, rotated: path != home}
	var o *emitter.Options
	if g.MaxLine > 0 {
		o = &emitter.Options{MaxLine: g.MaxLine}
	}
	fl.records = emitter.New(numbered{f, fl}, identity, o).Records(t)
	return fl, nil
}

func dirOf(path string) string  { return filepath.Dir(path) }
func nameOf(path string) string { return filepath.Base(path) }

// excluded reports whether the group leaves the file out.
func (g *Group) excluded(path string) bool {
	name := filepath.Base(path)
	if isCompressed(name) {
		return true
	}
	for _, glob := range g.Exclude {
		subject := name
		if strings.ContainsRune(glob, '/') {
			subject = filepath.ToSlash(path)
		}
		if ok, _ := filepath.Match(glob, subject); ok {
			return true
		}
	}
	return false
}
