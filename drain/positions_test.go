package drain

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// crash ends a set as kill -9 ends a process: nothing is flushed and nothing
// written, not even the positions.
func crash(s *Set) {
	s.saving.Lock()
	s.positions.path = "/dev/null/none" // nothing is written from now on
	s.saving.Unlock()
	s.Close()
}

func TestX03PositionsOutliveACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path, file := filepath.Join(dir, "positions.json"), filepath.Join(dir, "drains.json")
		bindings(t, file, `{"drains":[{"app":"shop","url":"syslog://a"},{"space":"prod","url":"syslog://b?drain-data=all"},{"org":"acme","url":"syslog://away"}]}`)
		src, rcv := newMemory(), new(hosts)
		rcv.at("away:514").set(errors.New("down"))
		total, again := 0, 0
		for life := range 20 {
			s := openSet(t, src, rcv, &SetOptions{Positions: path, NoTest: true, Drains: &Options{Replay: -1}}, File(file))
			for range 5 {
				src.lines(1, total, total+10)
				total += 10
				time.Sleep(300 * time.Millisecond)
			}
			crash(s)
			src.lines(1, total, total+10) // while nobody drains
			total += 10
			if life == 10 {
				rcv.at("away:514").set(nil)
			}
		}
		s := openSet(t, src, rcv, &SetOptions{Positions: path, NoTest: true}, File(file))
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{"a:514", "b:514", "away:514"} {
			next := 0
			list := rcv.at(host).texts()
			for _, line := range list {
				var n int
				fmt.Sscanf(line, "ring=1 seq=%d", &n)
				if n > next {
					t.Fatalf("%s: line %d where %d should be", host, n, next)
				}
				next = max(next, n+1)
			}
			if next != total {
				t.Errorf("%s got %d of %d", host, next, total)
			}
			again += len(list) - total
		}
		// What was sent since the last write, once a second, and no more.
		if again > 20*3*50 || again == 0 {
			t.Errorf("%d lines came again", again)
		}
		// After an end in good order nothing does.
		before := len(rcv.at("a:514").texts())
		src.lines(1, total, total+10)
		s = openSet(t, src, rcv, &SetOptions{Positions: path, NoTest: true}, File(file))
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(rcv.at("a:514").texts()) - before; n != 10 {
			t.Errorf("%d lines instead of 10", n)
		}
	})
}

// A drain whose URL or certificate was changed while nobody looked goes on where
// it was; one of another selection does not, and neither does another provider's.
func TestB04ChangedWhileStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path, file := filepath.Join(dir, "positions.json"), filepath.Join(dir, "drains.json")
		bindings(t, file, `{"drains":[{"app":"shop","url":"syslog://a"},{"space":"prod","url":"syslog://user:secret@b?token=secret"}]}`)
		src, rcv := newMemory(), new(hosts)
		o := &SetOptions{Positions: path, NoTest: true}
		s := openSet(t, src, rcv, o, File(file))
		src.lines(1, 0, 100)
		rcv.at("a:514").await(100)
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil || strings.Contains(string(text), "secret") {
			t.Errorf("%v %s", err, text)
		}
		src.lines(1, 100, 200)
		bindings(t, file, `{"drains":[{"app":"shop","url":"syslog://c"},{"org":"acme","url":"syslog://b"}]}`)
		s = openSet(t, src, rcv, o, File(file))
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(rcv.at("c:514").texts()); n != 100 {
			t.Errorf("c got %d", n)
		}
		if n := len(rcv.at("b:514").texts()); n != 100+200 {
			t.Errorf("b got %d", n)
		}
		// the binding is not there, then it is: where it was, for a day.
		src.lines(1, 200, 300)
		bindings(t, file, `{"drains":[]}`)
		s = openSet(t, src, rcv, o, File(file))
		time.Sleep(time.Hour)
		s.Close()
		bindings(t, file, `{"drains":[{"app":"shop","url":"syslog://c"}]}`)
		s = openSet(t, src, rcv, o, File(file))
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(rcv.at("c:514").texts()); n != 200 {
			t.Errorf("c got %d", n)
		}
		bindings(t, file, `{"drains":[]}`)
		s = openSet(t, src, rcv, o, File(file))
		time.Sleep(2 * keepTime)
		s.Close()
		if text, _ := os.ReadFile(path); string(text) != "{\"drains\": [\n]}\n" {
			t.Errorf("left: %s", text)
		}
	})
}

// A drain that starts now, and was down before anything came, does not start now
// a second time.
func TestPositionOfAQuietDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path, file := filepath.Join(dir, "positions.json"), filepath.Join(dir, "drains.json")
		bindings(t, file, `{"drains":[{"app":"shop","url":"syslog://a","from":"now"}]}`)
		src, rcv := newMemory(), new(hosts)
		src.lines(1, 0, 10)
		o := &SetOptions{Positions: path, NoTest: true}
		s := openSet(t, src, rcv, o, File(file))
		time.Sleep(5 * time.Second)
		src.lines(1, 10, 20)
		rcv.at("a:514").await(10)
		time.Sleep(2 * time.Minute)
		crash(s)
		src.lines(1, 20, 30)
		s = openSet(t, src, rcv, o, File(file))
		rcv.at("a:514").await(10)
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if list := rcv.at("a:514").texts(); len(list) != 20 || list[0] != "ring=1 seq=10" {
			t.Errorf("%q", list)
		}
	})
}

func TestX04PositionsCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		sub := filepath.Join(dir, "sub")
		path, file := filepath.Join(sub, "positions.json"), filepath.Join(dir, "drains.json")
		bindings(t, file, `{"drains":[{"app":"shop","url":"syslog://a"}]}`)
		src, rcv := newMemory(), new(hosts)
		var log lockedBuffer
		s := openSet(t, src, rcv, &SetOptions{Positions: path, NoTest: true, Drains: &Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}}, File(file))
		for i := range 10 {
			src.lines(1, i, i+1)
			rcv.at("a:514").await(1)
			time.Sleep(2 * time.Second)
		}
		synctest.Wait()
		if s.Err() == nil || strings.Count(log.String(), "is not kept") != 1 {
			t.Errorf("%v\n%s", s.Err(), log.String())
		}
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if s.Err() != nil || !strings.Contains(log.String(), "is written again") {
			t.Errorf("%v\n%s", s.Err(), log.String())
		}
		if list, err := os.ReadDir(sub); err != nil || len(list) != 1 {
			t.Errorf("%v %v", list, err)
		}
	})
}

func TestPositionsFileIsWrittenWhenSomethingMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path, file := filepath.Join(dir, "positions.json"), filepath.Join(dir, "drains.json")
		bindings(t, file, `{"drains":[{"app":"shop","url":"syslog://a"}]}`)
		src, rcv := newMemory(), new(hosts)
		s := openSet(t, src, rcv, &SetOptions{Positions: path, NoTest: true}, File(file))
		defer s.Close()
		src.lines(1, 0, 10)
		rcv.at("a:514").await(10)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		os.Remove(path)
		time.Sleep(30 * time.Minute) // nothing moves
		if _, err := os.Stat(path); err == nil {
			t.Error("written for nothing")
		}
		src.lines(1, 10, 20)
		time.Sleep(2 * readTime)
		synctest.Wait()
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	})
}

func TestBrokenPositionsFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "positions.json")
	for _, text := range []string{"", "{}", "[]", `{"drains":`, `{"drains":5}`, `{"drains":null}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := OpenSet(newMemory(), &SetOptions{Positions: path}); err == nil {
			s.Close()
			t.Errorf("%q is taken", text)
		}
	}
	// A cursor that is none is told by the time.
	at := position{Cursor: "!", Seen: time.Unix(5, 0), Opened: time.Unix(1, 0)}
	if c, since := at.resume(Binding{}); !c.IsZero() || !since.Equal(at.Seen) {
		t.Errorf("%v %v", c, since)
	}
	// Of what was never received all is still to come.
	at = position{Opened: time.Unix(600, 0), Seen: time.Unix(700, 0)}
	for from, want := range map[string]time.Time{"": {}, "oldest": {}, "now": time.Unix(600, 0), "1m": time.Unix(540, 0)} {
		if c, since := at.resume(Binding{From: from}); !c.IsZero() || !since.Equal(want) {
			t.Errorf("%q: %v %v", from, c, since)
		}
	}
}

func TestClaims(t *testing.T) {
	p, err := openPositions(filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	var c envelope.Cursor
	c.Advance(envelope.Batch{Ring: 1, Position: 5})
	a, b, other := Binding{App: "x", URL: "syslog://a"}, Binding{App: "x", URL: "syslog://b"}, Binding{App: "x", URL: "syslog://c"}
	for _, binding := range []Binding{a, b} {
		at := positionOf("file", binding)
		at.Cursor = c.String()
		p.put(at)
	}
	var got []bool
	for _, claim := range []struct {
		provider string
		b        Binding
		alike    bool
	}{
		{"capi", a, true}, {"file", other, false}, {"file", a, false}, {"file", a, false}, {"file", Binding{App: "y", URL: "syslog://a"}, true},
		{"file", other, true}, {"file", b, true},
	} {
		_, ok := p.claim(claim.provider, claim.b, claim.alike)
		got = append(got, ok)
	}
	if want := []bool{false, false, true, false, false, true, false}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A second process that would keep its places in the same file is refused, until
// the first has ended.
func TestPositionsFileInUse(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no flock")
	}
	dir := t.TempDir()
	file, o := filepath.Join(dir, "drains.json"), &SetOptions{Positions: filepath.Join(dir, "positions")}
	if err := os.WriteFile(file, []byte(`{"drains":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	src := newMemory()
	first, err := OpenSet(src, o, File(file))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSet(src, o, File(file)); !errors.Is(err, ErrInUse) {
		t.Fatalf("the second: %v", err)
	}
	if err := first.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	second, err := OpenSet(src, o, File(file))
	if err != nil {
		t.Fatal(err)
	}
	first.Close() // once more takes nothing from the second
	if _, err := OpenSet(src, o, File(file)); !errors.Is(err, ErrInUse) {
		t.Fatalf("the third: %v", err)
	}
	second.Close()
}
