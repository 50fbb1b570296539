package transport_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/faultnet"
	"github.com/cloudfoundry/loggregator/transport"
)

const twoServers = "tcp://server:1,tcp://server:2"

// sayAt writes one line of a source, of a time.
func sayAt(t testing.TB, w envelope.Writer, source string, at int64) {
	t.Helper()
	fixed := envelope.Identity{SourceID: source}.Encode()
	record := envelope.AppendLog(nil, fixed, at, envelope.Out, strconv.AppendInt(nil, at, 10))
	if err := w.WriteBatch(t.Context(), envelope.Batch{Records: record, Count: 1}); err != nil {
		t.Error(err)
	}
}

func TestSeveralServersByTime(t *testing.T) {
	bubble(t, func(t *testing.T, n *faultnet.Network) {
		routers := []*loggregator.Router{newRouter(t), newRouter(t)}
		serveRouter(t, n, "server:1", routers[0], nil)
		serveRouter(t, n, "server:2", routers[1], nil)
		r := newReader(t, n, twoServers, nil)
		var want []string
		for i := range int64(5000) {
			sayAt(t, routers[i*i%7%2], fmt.Sprint("app", i*i%3), i+1)
			want = append(want, strconv.FormatInt(i+1, 10))
		}
		for name, q := range map[string]envelope.Query{
			"dump":            {Select: envelope.Everything, ByTime: true},
			"follow":          {Select: envelope.Everything, ByTime: true, History: true, Follow: true},
			"filtered":        {Select: []envelope.Selector{{Stdout: true}}, ByTime: true},
			"last":            {Select: envelope.Everything, Last: 1234, ByTime: true},
			"last of all":     {Select: envelope.Everything, Last: 100_000, ByTime: true},
			"last, following": {Select: envelope.Everything, Last: 10, Follow: true},
			"last, filtered":  {Select: []envelope.Selector{{Stdout: true}}, Last: 777, ByTime: true},
			"last of nothing": {Select: []envelope.Selector{{Stderr: true}}, Last: 777, ByTime: true},
		} {
			want := want
			if q.Last > 0 {
				want = want[max(0, len(want)-q.Last):]
			}
			if name == "last of nothing" {
				want = nil
			}
			if q.Follow {
				c := follow(t, r, q)
				time.Sleep(5 * time.Second)
				synctest.Wait()
				wantLines(t, name, c, want)
			} else {
				wantLines(t, name, read(t.Context(), r, q), want)
			}
		}
		if c := read(t.Context(), r, envelope.Query{Select: envelope.Everything}); len(c.lines) != 5000 || c.err != nil {
			t.Errorf("in turns: %d, %v", len(c.lines), c.err)
		}
		if !r.Known(selectSource("app1")) || r.Known(selectSource("app7")) {
			t.Error("Known")
		}
		var held uint64
		count := 0
		for s := range r.Sources(envelope.Everything) {
			held += s.Held
			count++
		}
		if held != 5000 || count != 2 { // squares are 0 and 1 of 3
			t.Errorf("%d sources hold %d", count, held)
		}
	})
}

// The memory for what servers hold back until all have given their Last is bounded,
// and what does not fit is told.
func TestSeveralServersLastBeyondMemory(t *testing.T) {
	bubble(t, func(t *testing.T, n *faultnet.Network) {
		routers := []*loggregator.Router{newRouter(t), newRouter(t)}
		serveRouter(t, n, "server:1", routers[0], nil)
		serveRouter(t, n, "server:2", routers[1], nil)
		r := newReader(t, n, twoServers, &transport.ReaderOptions{HoldBytes: 200_000, Window: 64 << 10})
		for i := range int64(20_000) {
			sayAt(t, routers[i%2], "app", i+1)
		}
		c := read(t.Context(), r, envelope.Query{Select: selectSource("app"), Last: 15_000})
		if got := uint64(len(c.lines)) + c.missed; got != 15_000 || c.missed == 0 || c.err != nil {
			t.Errorf("%d lines, %d missed, %v", len(c.lines), c.missed, c.err)
		}
		if !slices.IsSortedFunc(c.lines, func(a, b string) int { return len(a)*10 - len(b)*10 + strings.Compare(a, b) }) {
			t.Error("not in order of time")
		}
	})
}

func TestSeveralServersComeAndGo(t *testing.T) {
	bubble(t, func(t *testing.T, n *faultnet.Network) {
		one, two := newRouter(t), newRouter(t)
		serveRouter(t, n, "server:1", one, nil)
		r := newReader(t, n, twoServers, nil)
		sayAt(t, two, "old", 1) // before anybody asked
		everything := envelope.Query{Select: envelope.Everything}
		tail := follow(t, r, everything)
		byTime := everything
		byTime.ByTime, byTime.History = true, true
		all := follow(t, r, byTime)
		synctest.Wait()
		// A dump says what it lacks.
		began := time.Now()
		sayAt(t, one, "a", time.Now().UnixNano())
		dump := read(t.Context(), r, everything)
		if len(dump.lines) != 1 || len(dump.lgr) != 1 || dump.err != nil || time.Since(began) > 3*time.Second {
			t.Errorf("%q %q %v after %v", dump.lines, dump.lgr, dump.err, time.Since(began))
		}
		quiet := newReader(t, n, twoServers, &transport.ReaderOptions{Quiet: true})
		if c := read(t.Context(), quiet, everything); len(c.lines) != 1 || len(c.lgr) != 0 || !errors.Is(c.err, transport.ErrAway) {
			t.Errorf("quiet: %q %q %v", c.lines, c.lgr, c.err)
		}

		sayAt(t, two, "b", time.Now().UnixNano()) // since the tail began
		time.Sleep(5 * time.Second)
		e := serveRouter(t, n, "server:2", two, nil)
		time.Sleep(5 * time.Second)
		sayAt(t, two, "b", time.Now().UnixNano())
		sayAt(t, one, "a", time.Now().UnixNano())
		synctest.Wait()
		lines, lgr, missed := tail.get()
		if len(lines) != 4 || slices.Contains(lines, "1") || len(lgr) != 2 || missed != 0 {
			t.Errorf("tail: %q %q %d", lines, lgr, missed)
		}
		if lines, _, _ := all.get(); len(lines) != 5 || !slices.Contains(lines, "1") {
			t.Errorf("all: %q", lines)
		}

		// It goes; the other goes on; what it kept meanwhile comes when it is back.
		e.Close()
		sayAt(t, two, "b", time.Now().UnixNano())
		began = time.Now()
		sayAt(t, one, "a", time.Now().UnixNano())
		for {
			if lines, _, _ := tail.get(); len(lines) == 5 || time.Since(began) > time.Minute {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("a server that stopped held up the other for %v", d)
		}
		time.Sleep(5 * time.Second)
		serveRouter(t, n, "server:2", two, nil)
		time.Sleep(5 * time.Second)
		if lines, lgr, missed := tail.get(); len(lines) != 6 || len(lgr) != 4 || missed != 0 {
			t.Errorf("tail: %q %q %d", lines, lgr, missed)
		}

		// One that hangs is left within ten seconds, and holds up no live line.
		n.Swallow("server:2")
		sayAt(t, two, "b", time.Now().UnixNano())
		sayAt(t, one, "a", time.Now().UnixNano())
		time.Sleep(time.Second)
		if lines, _, _ := tail.get(); len(lines) != 7 {
			t.Errorf("%d lines", len(lines))
		}
		time.Sleep(9 * time.Second)
		if s := r.Stats(); s.Connected != 1 {
			t.Errorf("%+v", s)
		}
		n.Heal("server:2")
		time.Sleep(10 * time.Second)
		if lines, _, missed := tail.get(); len(lines) != 8 || missed != 0 {
			t.Errorf("tail: %q %d", lines, missed)
		}
	})
}

// maker writes numbered records of one source, wherever it is told to, and again
// those that may not have arrived, as a Link does.
type maker struct {
	stream envelope.StreamID
	source string
}

func (m maker) write(t testing.TB, w envelope.Writer, first, n int) {
	t.Helper()
	fixed := envelope.Identity{SourceID: m.source}.Encode()
	var records []byte
	for i := first; i < first+n; i++ {
		records = envelope.AppendLog(records, fixed, int64(i), envelope.Out, fmt.Appendf(nil, "%s %d", m.source, i))
	}
	b := envelope.Batch{Records: records, Count: n, Stream: m.stream, First: uint64(first), Next: uint64(first + n), From: uint64(first)}
	if err := w.WriteBatch(t.Context(), b); err != nil {
		t.Error(err)
	}
}

// A source moves from server to server, and what was under way is sent to both.
func TestSourcesMoveBetweenServers(t *testing.T) {
	bubble(t, func(t *testing.T, n *faultnet.Network) {
		routers := []*loggregator.Router{newRouter(t), newRouter(t)}
		serveRouter(t, n, "server:1", routers[0], nil)
		serveRouter(t, n, "server:2", routers[1], nil)
		r := newReader(t, n, twoServers, nil)
		tail := follow(t, r, envelope.Query{Select: selectSource("app")})
		byTime := follow(t, r, envelope.Query{Select: selectSource("app"), History: true, ByTime: true})
		synctest.Wait()
		m := maker{77, "app"}
		at := 1
		for i := range 20 {
			m.write(t, routers[i%2], max(1, at-5*(i%3)), 10+5*(i%3)-max(0, 1-(at-5*(i%3))))
			at += 10
			synctest.Wait()
			if i%4 == 0 {
				time.Sleep(3 * time.Second)
			}
		}
		time.Sleep(3 * time.Second)
		wantLines(t, "tail", tail, linesOf("app", 1, 200))
		wantLines(t, "by time", byTime, linesOf("app", 1, 200))
		wantLines(t, "dump", read(t.Context(), r, envelope.Query{Select: selectSource("app"), ByTime: true}), linesOf("app", 1, 200))
		wantLines(t, "dump", read(t.Context(), r, envelope.Query{Select: selectSource("app"), Last: 50}), linesOf("app", 151, 50))

		// What only the server had that is gone is told as missed, when others go on.
		lost := newRouter(t)
		m.write(t, lost, 201, 5) // which nobody reads
		m.write(t, routers[0], 206, 5)
		time.Sleep(3 * time.Second)
		lines, _, missed := tail.get()
		if len(lines) != 205 || missed != 5 {
			t.Errorf("%d lines, %d missed", len(lines), missed)
		}
		// What comes late after that has been told already.
		m.write(t, routers[1], 201, 5)
		time.Sleep(3 * time.Second)
		if lines, _, missed := tail.get(); len(lines) != 205 || missed != 5 {
			t.Errorf("%d lines, %d missed", len(lines), missed)
		}
	})
}

// A server is slower than the one that a source has moved to.
func TestGapIsFilledByTheSlowerServer(t *testing.T) {
	bubble(t, func(t *testing.T, n *faultnet.Network) {
		routers := []*loggregator.Router{newRouter(t), newRouter(t)}
		serveRouter(t, n, "server:1", routers[0], nil)
		serveRouter(t, n, "server:2", routers[1], nil)
		r := newReader(t, n, twoServers, nil)
		tail := follow(t, r, envelope.Query{Select: selectSource("app")})
		synctest.Wait()
		m := maker{77, "app"}
		m.write(t, routers[0], 1, 5)
		synctest.Wait()
		m.write(t, routers[1], 11, 5)
		time.Sleep(200 * time.Millisecond)
		m.write(t, routers[0], 6, 5)
		time.Sleep(3 * time.Second)
		wantLines(t, "tail", tail, linesOf("app", 1, 15))
	})
}

// An agent that is started anew does not say which server has what its predecessor
// sent. What a server then tells as missing is told by the reader as far as nobody
// gave it.
func TestToldByTheWrongServer(t *testing.T) {
	bubble(t, func(t *testing.T, n *faultnet.Network) {
		routers := []*loggregator.Router{newRouter(t), newRouter(t)}
		serveRouter(t, n, "server:1", routers[0], nil)
		serveRouter(t, n, "server:2", routers[1], nil)
		r := newReader(t, n, twoServers, nil)
		q := envelope.Query{Select: selectSource("app")}
		tail := follow(t, r, q)
		synctest.Wait()
		m := maker{77, "app"}
		unaware := func(w envelope.Writer, first, count int) {
			fixed := envelope.Identity{SourceID: "app"}.Encode()
			var records []byte
			for i := first; i < first+count; i++ {
				records = envelope.AppendLog(records, fixed, int64(i), envelope.Out, fmt.Appendf(nil, "app %d", i))
			}
			if err := w.WriteBatch(t.Context(), envelope.Batch{Records: records, Count: count, Stream: m.stream, First: uint64(first), Next: uint64(first + count)}); err != nil {
				t.Error(err)
			}
		}
		m.write(t, routers[0], 1, 10)
		synctest.Wait()
		m.write(t, routers[1], 11, 10)
		synctest.Wait()
		unaware(routers[0], 21, 5)
		time.Sleep(3 * time.Second)
		want := linesOf("app", 1, 25)
		wantLines(t, "tail", tail, want)
		late := follow(t, r, envelope.Query{Select: q.Select, History: true})
		time.Sleep(3 * time.Second)
		wantLines(t, "from the beginning", late, want)
		for what, c := range map[string]*collected{"tail": tail, "from the beginning": late, "dump": read(t.Context(), r, q)} {
			if _, lgr, _ := c.get(); len(lgr) > 0 {
				t.Errorf("%s: %q", what, lgr)
			}
		}

		// Of ten that the server lacks five were given and five are lost.
		unaware(routers[1], 31, 5)
		time.Sleep(3 * time.Second)
		want = append(want, linesOf("app", 31, 5)...)
		wantLines(t, "tail", tail, want)
		for what, c := range map[string]*collected{"tail": tail, "dump": read(t.Context(), r, q)} {
			if _, lgr, _ := c.get(); len(lgr) != 1 || !strings.HasPrefix(lgr[0], "5 lines are missing") {
				t.Errorf("%s: %q", what, lgr)
			}
		}
	})
}

// Sources have moved to and fro while nobody read, more of them than can be put
// aside: each server has much of which the other has what comes before.
func TestReadFarBehind(t *testing.T) {
	bubble(t, func(t *testing.T, n *faultnet.Network) {
		const sources, moves, lines = 400, 6, 20 // of which 256 find room
		routers := []*loggregator.Router{newRouter(t), newRouter(t)}
		serveRouter(t, n, "server:1", routers[0], nil)
		serveRouter(t, n, "server:2", routers[1], nil)
		total := 0
		for move := range moves {
			for i := range sources {
				m := maker{envelope.StreamID(1000 + i), fmt.Sprint("app-", i)}
				if move == moves/2 && i%3 == 0 {
					continue // these are lost
				}
				m.write(t, routers[(i+move)%2], 1+move*lines, lines)
				total += lines
			}
		}
		r := newReader(t, n, twoServers, &transport.ReaderOptions{Window: 64 << 10})
		began := time.Now()
		tail := follow(t, r, envelope.Query{Select: envelope.Everything, History: true})
		var took time.Duration
		for took < time.Minute {
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			took = time.Since(began)
			if got, _, missed := tail.get(); len(got)+int(missed) >= moves*sources*lines {
				break
			}
		}
		got, _, missed := tail.get()
		if len(got) != total || int(missed) != moves*sources*lines-total || took > 5*time.Second {
			t.Fatalf("%d of %d lines, %d missed, after %v", len(got), total, missed, took)
		}
		next := make(map[string]int)
		for _, line := range got {
			app, number, _ := strings.Cut(line, " ")
			if i, _ := strconv.Atoi(number); i <= next[app] {
				t.Fatalf("%s after %d", line, next[app])
			} else {
				next[app] = i
			}
		}
	})
}
