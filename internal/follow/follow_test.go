package follow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// bench is a follower that is driven by hand, with a clock of its own.
type bench struct {
	t     *testing.T
	dir   string
	now   time.Time
	f     *Follower
	lines []string
	got   map[envelope.StreamID]uint64 // next number by stream, to see repeats as a server does
	drop  int                          // repeats
	held  bool
	safe  bool // whether what was handed over is acknowledged
}

func newBench(t *testing.T) *bench {
	return &bench{t: t, dir: t.TempDir(), now: time.Now(), got: make(map[envelope.StreamID]uint64), safe: true}
}

// start makes a follower, as after a restart.
func (b *bench) start(change func(*Group, *Options)) *bench {
	b.t.Helper()
	g := &Group{
		Identify: func(_ string, vars map[string]string) (envelope.Identity, envelope.LogType, error) {
			return envelope.Identity{SourceID: "s" + vars["app"]}, envelope.Out, nil
		},
		Writer: envelope.WriterFunc(b.take),
	}
	p, err := ParsePattern(filepath.Join(b.dir, "app.log"))
	if err != nil {
		b.t.Fatal(err)
	}
	g.Paths = []*Pattern{p}
	o := &Options{
		Positions: filepath.Join(b.dir, "positions.json"), NoNotify: true,
		Hold: func() bool { return b.held },
		Mark: func() func() bool { return func() bool { return b.safe } },
	}
	if change != nil {
		change(g, o)
	}
	if b.f, err = New([]*Group{g}, o); err != nil {
		b.t.Fatal(err)
	}
	return b
}

func (b *bench) take(_ context.Context, batch envelope.Batch) error {
	n := batch.First
	for e, err := range batch.All() {
		if err != nil {
			return err
		}
		if batch.Stream != 0 {
			if next := b.got[batch.Stream]; n < next {
				b.drop++
				n++
				continue
			}
			n++
			b.got[batch.Stream] = n
		}
		b.lines = append(b.lines, string(e.Payload()))
	}
	return nil
}

// look passes once, some time later.
func (b *bench) look(later ...time.Duration) *bench {
	b.now = b.now.Add(250 * time.Millisecond)
	for _, d := range later {
		b.now = b.now.Add(d)
	}
	for b.f.pass(b.now, lookAll) == passMore {
	}
	return b
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) append(name, text string) *bench {
	b.t.Helper()
	f, err := os.OpenFile(b.path(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.WriteString(f, text); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Chtimes(b.path(name), b.now, b.now); err != nil {
		b.t.Fatal(err)
	}
	return b
}

func (b *bench) rename(from, to string) *bench {
	b.t.Helper()
	if err := os.Rename(b.path(from), b.path(to)); err != nil {
		b.t.Fatal(err)
	}
	return b
}

func (b *bench) copy(from, to string) *bench {
	b.t.Helper()
	data, err := os.ReadFile(b.path(from))
	if err == nil {
		err = os.WriteFile(b.path(to), data, 0o644)
	}
	if err == nil {
		err = os.Chtimes(b.path(to), b.now, b.now)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return b
}

func (b *bench) truncate(name string) *bench {
	b.t.Helper()
	if err := os.Truncate(b.path(name), 0); err != nil {
		b.t.Fatal(err)
	}
	return b
}

func (b *bench) remove(name string) *bench {
	b.t.Helper()
	if err := os.Remove(b.path(name)); err != nil {
		b.t.Fatal(err)
	}
	return b
}

// want checks what has come since it was called last.
func (b *bench) want(lines ...string) *bench {
	b.t.Helper()
	if !slices.Equal(b.lines, lines) {
		b.t.Errorf("got %q, want %q", b.lines, lines)
	}
	b.lines = nil
	return b
}

// crash throws the follower away, without a word.
func (b *bench) crash() *bench {
	for _, fl := range b.f.files {
		b.f.closeFile(fl)
	}
	return b
}

func long(s string) string { return s + strings.Repeat("-", 100) + "\n" }
func line(s string) string { return s + strings.Repeat("-", 100) }

func TestGrowth(t *testing.T) {
	b := newBench(t).start(nil)
	b.look().want()
	b.append("app.log", "one\ntwo\r\nthr").look().want("one", "two")
	b.append("app.log", "ee\n\nfive").look().want("three", "")
	b.look(time.Hour).want() // a line without an end waits
	b.append("app.log", "\n").look().want("five")
	if s := b.f.Stats(); s.Files != 1 || s.Records != 5 || s.Bytes != 21 || s.Truncated != 0 {
		t.Errorf("%+v", s)
	}
}

func TestRename(t *testing.T) {
	b := newBench(t).start(nil)
	b.append("app.log", "1\n").look().want("1")
	// The writer goes on in the old file until it is told.
	b.append("app.log", "2\n").rename("app.log", "app.log.1").append("app.log.1", "3\n").look().want("2", "3")
	b.append("app.log.1", "4\n5").append("app.log", "6\n").look().want("4", "5", "6") // in order, the last line ended by its successor
	b.append("app.log.1", "late\n").look().want("late")
	// Rotated twice between two looks, and the numbers moved up.
	b.append("app.log", "7\n").rename("app.log.1", "app.log.2").rename("app.log", "app.log.1")
	b.append("app.log", "8\n").rename("app.log.2", "app.log.3").rename("app.log.1", "app.log.2").rename("app.log", "app.log.1")
	b.append("app.log", "9\n").look().want("7", "8", "9")
	b.look(2 * time.Minute).look().want()
	if open := b.f.Stats().Open; open != 1 {
		t.Errorf("%d files open after rotated ones have been silent", open)
	}
	b.append("app.log.3", "very late\n").look().want("very late")
}

func TestDelete(t *testing.T) {
	b := newBench(t).start(nil)
	b.append("app.log", "1\n").look().want("1")
	b.append("app.log", "2\nlast").remove("app.log").look().want("2")
	b.look(2 * time.Second).want("last")
	b.append("app.log", "3\n").look().want("3")
	b.look(time.Minute).look()
	if s := b.f.Stats(); s.Files != 1 || s.Open != 1 {
		t.Errorf("%+v", s)
	}
	b.remove("app.log").append("app.log", "4\n").look().want("4")
}

func TestTruncate(t *testing.T) {
	b := newBench(t).start(nil)
	b.append("app.log", long("1")+long("2")).look().want(line("1"), line("2"))
	b.truncate("app.log").look().append("app.log", "3\n").look().want("3")
	b.truncate("app.log").append("app.log", long("4")).look().want(line("4")) // grown beyond meanwhile
	// The same length, and the same just before where we were.
	b.truncate("app.log").append("app.log", long("5")+long("6")).look().want(line("5"), line("6"))
	if s := b.f.Stats(); s.Truncated != 3 || s.Unknown != 3 {
		t.Errorf("%+v", s)
	}
	// Whoever does not append leaves a hole.
	if err := os.Truncate(b.path("app.log"), 0); err != nil {
		t.Fatal(err)
	}
	b.look()
	if err := os.Truncate(b.path("app.log"), 300_000); err != nil {
		t.Fatal(err)
	}
	b.append("app.log", "5\n").look().want("5")
}

func TestCopyTruncate(t *testing.T) {
	b := newBench(t).start(nil)
	b.append("app.log", long("1")).look().want(line("1"))
	b.append("app.log", long("2")).copy("app.log", "app.log.1").truncate("app.log").append("app.log", long("three")).look()
	b.want(line("2"), line("three"))
	if s := b.f.Stats(); s.Truncated != 1 || s.Unknown != 0 {
		t.Errorf("%+v", s)
	}
	// Seen while it is being copied, and rotated twice between two looks.
	b.append("app.log", long("4")).copy("app.log", "app.log.2").look().want(line("4"))
	b.append("app.log", long("5")).copy("app.log", "app.log.2").truncate("app.log")
	b.append("app.log", long("6")).copy("app.log", "app.log.3").truncate("app.log")
	b.append("app.log", long("7")).look()
	slices.Sort(b.lines)
	b.want(line("5"), line("6"), line("7"))
	b.look().look(time.Hour).want()
}

// TestCopyIsMatched: the glob describes the copies, too.
func TestCopyIsMatched(t *testing.T) {
	b := newBench(t)
	b.append("app.log.1", long("0")).start(func(g *Group, _ *Options) {
		g.Paths[0], _ = ParsePattern(filepath.Join(b.dir, "app.log*"))
	})
	b.append("app.log", long("1")).look().want(line("0"), line("1"))
	for i := 2; i < 6; i++ {
		b.append("app.log", long(fmt.Sprint(i))).rename("app.log.1", "app.log."+fmt.Sprint(i))
		b.copy("app.log", "app.log.1").truncate("app.log").look().want(line(fmt.Sprint(i)))
	}
	b.append("app.log", long("6")).rename("app.log", "app.log.9").append("app.log", long("7")).look().want(line("6"), line("7"))
	b.look(2 * time.Second).look()
	b.crash().start(func(g *Group, _ *Options) {
		g.Paths[0], _ = ParsePattern(filepath.Join(b.dir, "app.log*"))
	})
	b.look().want()
	b.append("app.log", long("8")).look().want(line("8"))
}

func TestRestart(t *testing.T) {
	b := newBench(t).start(nil)
	b.append("app.log", long("1")).look().look(2 * time.Second).look().want(line("1"))
	if b.f.Stats().Saves == 0 {
		t.Fatal("nothing saved")
	}

	// What came after the positions were saved is read again, and recognised.
	b.safe = false
	b.append("app.log", long("2")+long("3")).look(2*time.Second).look().want(line("2"), line("3"))
	b.crash().safe = true
	b.append("app.log", long("4")).start(nil).look().want(line("4"))
	if b.drop != 2 {
		t.Errorf("%d repeats, want 2", b.drop)
	}
	b.look(2 * time.Second).look()

	// Away while it is rotated: by another name, twice.
	b.append("app.log", long("5")).crash()
	b.rename("app.log", "app.log.2")
	b.now = b.now.Add(time.Second)
	b.append("app.log", long("6")).rename("app.log", "app.log.1").append("app.log", long("7"))
	b.start(nil).look().want(line("5"), line("6"), line("7"))
	b.look(2 * time.Second).look()

	// Away while it is copied and truncated, and grows beyond where it was.
	b.append("app.log", long("8")).crash()
	b.copy("app.log", "app.log.4").truncate("app.log").append("app.log", long("9")+long("10")+long("11"))
	b.start(nil).look().want(line("8"), line("9"), line("10"), line("11"))
	b.look(2 * time.Second).look()

	// Nothing happened; then a rotated file that was read to its end grows.
	b.crash().start(nil).look().want()
	b.append("app.log.1", long("late")).look().want(line("late"))
}

func TestStart(t *testing.T) {
	b := newBench(t)
	b.append("app.log", "old\n").append("app.log.1", "older\n").append("app.log.2.gz", "zipped\n")
	b.now = b.now.Add(time.Hour)
	b.start(nil)
	b.f.since = b.now
	b.look().want("old") // rotated before we came: not described by the pattern
	b.crash().start(func(g *Group, _ *Options) { g.FromEnd = true }).look().want()
	b.append("app.log", "new\n").look().want("new")
	b.rename("app.log", "app.log.1").append("app.log", "newer\n").look().want("newer")
}

// TestSaveAtOnce: a follower that ends before it has looked at anything changes
// no positions.
func TestSaveAtOnce(t *testing.T) {
	b := newBench(t).start(nil)
	b.append("app.log.1", "older\n").append("app.log", long("1")).look().want(line("1"))
	b.append("app.log", long("2")).look(time.Minute).look().look(time.Minute).look().want(line("2"))
	b.crash().start(nil)
	if err := b.f.Save(); err != nil {
		t.Fatal(err)
	}
	b.crash().append("app.log", long("3")).start(nil).look().want(line("3"))
}

// TestAwayForAWhile: a file that is away, with its directory, and comes back is
// read on.
func TestAwayForAWhile(t *testing.T) {
	b := newBench(t)
	b.start(func(g *Group, o *Options) { g.Paths[0], _ = ParsePattern(filepath.Join(b.dir, "logs", "*.log")) })
	if err := os.Mkdir(b.path("logs"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.append("logs/app.log", long("1")).look().want(line("1"))
	b.rename("logs", "away").look().look(time.Minute).look().want()
	if n := b.f.Stats().Files; n != 0 {
		t.Errorf("%d files known that are not there", n)
	}
	b.append("away/app.log", long("2")).rename("away", "logs").look().want(line("2"))
	// Another file in its place, maybe with its number.
	b.remove("logs/app.log").look().look(time.Minute).look()
	b.append("logs/app.log", long("3")).look().want(line("3"))
	b.look(2 * time.Second).look()
	b.crash().start(func(g *Group, o *Options) { g.Paths[0], _ = ParsePattern(filepath.Join(b.dir, "logs", "*.log")) }).look().want()
	if n := b.f.Stats().Truncated; n != 0 {
		t.Errorf("%d files taken for truncated", n)
	}
}

// TestForcedEnd: a line that was taken for ended, and went on, is another one when
// it is read again. What follows it is not taken for a repeat.
func TestForcedEnd(t *testing.T) {
	b := newBench(t).start(nil)
	b.append("app.log", "0\n").look().look(2 * time.Second).look().want("0")
	b.safe = false
	b.append("app.log", "par").rename("app.log", "app.log.1").look().look(2 * time.Second).want("par")
	b.append("app.log.1", "tial\n").look().want("tial")
	b.crash().append("app.log.1", "next\n").start(nil).look().want("next")
}

// TestGoneMeanwhile: the rest of a file that is not there after a restart is
// told of, and its position kept.
func TestGoneMeanwhile(t *testing.T) {
	b := newBench(t).start(nil)
	b.append("app.log", long("1")).look().look(2 * time.Second).look().want(line("1"))
	if err := os.Mkdir(b.path("away"), 0o755); err != nil {
		b.t.Fatal(err)
	}
	b.crash().rename("app.log", "away/app.log")
	b.start(nil).look().look(2 * time.Second).look().want()
	if b.f.Stats().Unknown != 1 {
		t.Errorf("%+v", b.f.Stats())
	}
	b.crash().rename("away/app.log", "app.log").append("app.log", long("2"))
	b.start(nil).look().want(line("2"))
}

func TestHold(t *testing.T) {
	b := newBench(t).start(nil)
	b.look()
	b.held = true
	b.append("app.log", "1\n").look().want()
	b.rename("app.log", "app.log.1").append("app.log", "2\n").look().want()
	b.remove("app.log.1").look(time.Hour).want() // it is open
	b.held = false
	b.look().want("1", "2")
}

func TestJoined(t *testing.T) {
	indent := &Join{Indent: true, MaxLines: 4, MaxBytes: 60}
	start := &Join{Start: regexp.MustCompile(`^\d{4}-`)}
	tests := []struct {
		name string
		join *Join
		text string
		want []string
	}{
		{"trace", indent, "boom\n\tat a\n\tat b\nCaused by: c\nnext\n", []string{"boom\n\tat a\n\tat b\nCaused by: c", "next"}},
		{"lines", indent, "a\n 1\n 2\n 3\n 4\n 5\n", []string{"a\n 1\n 2\n 3", " 4\n 5"}},
		{"bytes", indent, "a\n " + strings.Repeat("b", 40) + "\n " + strings.Repeat("c", 40) + "\n", []string{"a\n " + strings.Repeat("b", 40), " " + strings.Repeat("c", 40)}},
		{"crlf", indent, "a\r\n b\r\nc\r\n", []string{"a\r\n b", "c"}},
		{"start", start, "lost\n2026-1\nmore\n\n2026-2\n", []string{"lost", "2026-1\nmore\n", "2026-2"}},
		{"continue", &Join{Continue: regexp.MustCompile(`^\+`)}, "a\n+b\nc\n", []string{"a\n+b", "c"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t).start(func(g *Group, _ *Options) { g.Join = test.join })
			for _, c := range test.text { // as it grows
				b.append("app.log", string(c)).look(-249 * time.Millisecond)
			}
			last := test.want[len(test.want)-1]
			b.want(test.want[:len(test.want)-1]...)
			b.look(500 * time.Millisecond).want()
			b.look(2 * time.Second).want(last)
		})
	}
	if _, err := New([]*Group{{Join: &Join{}}}, nil); err == nil {
		t.Error("joining without a rule")
	}
}

func TestLongLines(t *testing.T) {
	b := newBench(t).start(func(g *Group, _ *Options) { g.MaxLine = 1 << 20 })
	huge := strings.Repeat("x", 700<<10)
	b.append("app.log", huge).look().append("app.log", "\nshort\n").look()
	if len(b.lines) != 4 || strings.Join(b.lines[:3], "") != huge || b.lines[3] != "short" {
		t.Errorf("%d records", len(b.lines))
	}
}

func TestUnreadable(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root reads everything")
	}
	b := newBench(t).start(nil)
	b.append("app.log", "1\n")
	if err := os.Chmod(b.path("app.log"), 0); err != nil {
		t.Fatal(err)
	}
	b.look().want()
	if b.f.Stats().Unreadable != 1 {
		t.Errorf("%+v", b.f.Stats())
	}
	if err := os.Chmod(b.path("app.log"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.look().want("1")
}

// TestRefusedName: a file whose name makes no identity is left out.
func TestRefusedName(t *testing.T) {
	b := newBench(t).start(func(g *Group, _ *Options) {
		g.Identify = func(string, map[string]string) (envelope.Identity, envelope.LogType, error) {
			return envelope.Identity{}, 0, errors.New("no")
		}
	})
	b.append("app.log", "1\n").look().look().want()
}

func TestMaxOpen(t *testing.T) {
	b := newBench(t)
	b.start(func(g *Group, o *Options) {
		g.Paths[0], _ = ParsePattern(filepath.Join(b.dir, "{app}.log"))
		o.MaxOpen = 4
	})
	want := 0
	for round := range 3 {
		for i := range 20 {
			b.append(fmt.Sprintf("%d.log", i), fmt.Sprintf("%d in round %d\n", i, round))
			want++
		}
		b.look().look()
		if open := b.f.Stats().Open; open > 4 {
			t.Errorf("%d open", open)
		}
	}
	if len(b.lines) != want {
		t.Errorf("%d of %d lines", len(b.lines), want)
	}
}

func TestDamagedPositions(t *testing.T) {
	for _, text := range []string{"{", `{"version":7}`, `{"version":1,"files":[{"path":"x","offset":-1}]}`} {
		path := filepath.Join(t.TempDir(), "positions")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(nil, &Options{Positions: path}); err == nil || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
