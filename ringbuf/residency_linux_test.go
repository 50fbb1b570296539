package ringbuf_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/ringbuf"
)

const mixBudget = 64 << 20

func init() { children["mix"] = runMix }

// residency is what a child process reports of itself, in bytes.
type residency struct {
	Base, Peak int64 // resident before the first record, and at most
	Stored     int64 // in records
	Stats      loggregator.Stats
}

// mixture is something that sources may do to a router's memory. share is how
// much of the budget must be records at the end, in percent.
type mixture struct {
	name  string
	share int64
	run   func(m *mix)
}

var mixes = []mixture{
	{"one source", 85, func(m *mix) {
		for m.written < 3*mixBudget {
			m.write(0, 100, 200)
		}
	}},
	{"a thousand sources", 85, func(m *mix) {
		for i := 0; m.written < 3*mixBudget; i++ {
			m.write(i%1000, 10, 200)
		}
	}},
	{"large records", 85, func(m *mix) {
		for i := 0; m.written < 3*mixBudget; i++ {
			m.write(i%10, 1, 200_000)
		}
	}},
	{"three lines each", 0, func(m *mix) {
		for i := range 100_000 {
			m.write(i, 3, 200)
		}
	}},
	{"long tags, one line each", 0, func(m *mix) {
		m.tags = 4000
		for i := range 20_000 {
			m.write(i, 1, 10)
		}
	}},
	{"large records, then three lines each", 0, func(m *mix) {
		for m.written < 2*mixBudget {
			m.write(0, 1, 200_000)
		}
		for i := range 100_000 {
			m.write(1+i, 3, 200)
		}
	}},
	{"sources that come and go", 0, func(m *mix) {
		for i := 0; m.written < 8*mixBudget; i++ {
			m.write(i/20, 20, 200)
		}
	}},
	{"floods in turn", 85, func(m *mix) {
		for i := range 20 {
			for start := m.written; m.written < start+2*mixBudget; {
				m.write(i, 200, 200)
			}
		}
	}},
	{"many small sources between two large ones", 0, func(m *mix) {
		for i := 0; m.written < 3*mixBudget; i++ {
			m.write(i%2, 1, 1500)
			if i%4 == 0 {
				m.write(2+i/4%30_000, 1, 100)
			}
		}
	}},
	{"always another maker", 0, func(m *mix) {
		for i := 0; m.written < 2*mixBudget; i++ {
			b := m.batch(i%100, 1, 100)
			b.Stream, b.First, b.Next = envelope.StreamID(i+1), 1, 2
			m.send(b)
		}
	}},
	{"makers in turn", 0, func(m *mix) {
		numbers := make([]uint64, 50)
		for i := 0; m.written < 2*mixBudget; i++ {
			k := i % len(numbers)
			b := m.batch(i%7, 1, 100)
			b.Stream, b.First, b.Next = envelope.StreamID(k+1), numbers[k]+1, numbers[k]+2
			numbers[k]++
			m.send(b)
		}
	}},
}

type mix struct {
	router  *loggregator.Router
	written int64
	tags    int
	known   [1000]envelope.Fixed
	text    []byte
	buf     []byte
}

func (m *mix) batch(source, lines, size int) envelope.Batch {
	fixed := m.identity(source)
	m.buf = m.buf[:0]
	for range lines {
		m.buf = envelope.AppendLog(m.buf, fixed, time.Now().UnixNano(), envelope.Out, m.text[:size])
	}
	return envelope.Batch{Records: m.buf, Count: lines}
}

// identity is that of a source. A few are kept, so that to make them is not what
// is measured.
func (m *mix) identity(source int) envelope.Fixed {
	if source < len(m.known) && m.known[source] != nil {
		return m.known[source]
	}
	id := fmt.Sprintf("5f6c7a1e-3a3b-4c1d-9e2f-%012d", source)
	identity := envelope.Identity{SourceID: id, InstanceID: "0", Tags: map[string]string{
		envelope.TagAppName: fmt.Sprint("shop-frontend-", source), envelope.TagSpaceName: "production", envelope.TagOrgName: "acme",
		envelope.TagAppID: id, envelope.TagSourceType: "APP/PROC/WEB", "process_type": "web",
	}}
	if m.tags > 0 {
		identity.Tags["long"] = strings.Repeat("x", m.tags)
	}
	if source < len(m.known) {
		m.known[source] = identity.Encode()
	}
	return identity.Encode()
}

func (m *mix) send(b envelope.Batch) {
	m.written += int64(len(b.Records))
	if err := m.router.WriteBatch(context.Background(), b); err != nil {
		panic(err)
	}
}

func (m *mix) write(source, lines, size int) { m.send(m.batch(source, lines, size)) }

func runMix(arg string) {
	name, dir, _ := strings.Cut(arg, "@")
	for _, mix1 := range mixes {
		if mix1.name != name {
			continue
		}
		m := &mix{text: bytes.Repeat([]byte("x"), 200_000)}
		// What a process has anyway: its code, and the 4 MiB of heap from which on
		// the collector starts to work.
		m.router = loggregator.New(&loggregator.Options{Budget: ringbuf.MinBudget})
		for i := range 20_000 {
			m.write(i%10, 1, 200)
			m.buf = nil
		}
		m.router.Close()
		m.written = 0
		m.router = loggregator.New(&loggregator.Options{Budget: mixBudget, Dir: dir})
		r := residency{Base: memory("VmRSS:")}
		mix1.run(m)
		r.Peak, r.Stats = memory("VmHWM:"), m.router.Stats()
		json.NewEncoder(os.Stdout).Encode(r)
		return
	}
}

// memory reads a figure of this process, in bytes.
func memory(key string) int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	_, rest, _ := strings.Cut(string(status), key)
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		panic(err)
	}
	return kib << 10
}

// TestResidency fills a router in a process of its own, in every way that may
// cost memory beside the records, and looks at how much of it was resident at
// most: rings, what the router knows of their sources, and the collector's
// garbage included.
func TestResidency(t *testing.T) {
	if testing.Short() {
		t.Skip("fills memory")
	}
	if raceEnabled {
		t.Skip("the race detector's own memory is resident, too")
	}
	for _, mix := range mixes {
		t.Run(mix.name, func(t *testing.T) { mix.check(t, false) })
	}
	for _, i := range []int{1, 5} {
		t.Run(mixes[i].name+", with a directory", func(t *testing.T) { mixes[i].check(t, true) })
	}
}

// check runs the mix in a process of its own, and the one with the lowest peak
// of up to three: when the collector gets its turn late on a machine that does
// other things, what is resident is its garbage.
func (x *mixture) check(t *testing.T, onDisk bool) {
	const most = 115
	percent := func(n int64) int64 { return n * 100 / mixBudget }
	var peak int64
	for i := range 3 {
		dir := ""
		if onDisk {
			dir = filepath.Join(t.TempDir(), "rings")
		}
		r := x.measure(t, dir)
		s := r.Stats
		t.Logf("resident %d %% of the budget; records %d %%, charged %d %%; %d sources",
			percent(r.Peak-r.Base), percent(s.Bytes), percent(s.Used), s.Sources)
		if s.NoRoom > 0 {
			t.Errorf("%d records were refused for want of room", s.NoRoom)
		}
		if p := percent(s.Bytes); p < x.share {
			t.Errorf("records are %d %% of the budget, want %d %%", p, x.share)
		}
		if p := percent(r.Peak - r.Base); i == 0 || p < peak {
			peak = p
		}
		if peak <= most {
			return
		}
	}
	t.Errorf("%d %% of the budget is resident", peak)
}

func (x *mixture) measure(t *testing.T, dir string) (r residency) {
	child := child(t, "mix", x.name+"@"+dir)
	child.Env = append(child.Env, "GOGC=100")
	out, err := child.Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	return r
}
