package grpcv2

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"

	"github.com/cloudfoundry/loggregator/envelope"
	pb "github.com/cloudfoundry/loggregator/envelope/envelopepb"
)

// shards writes numbered lines of several sources, and checks that together the
// members have got each once, and each member those of a source in order.
type shards struct {
	b       *bench
	sources int
	written int // of each source
}

func (s *shards) write(rounds int) {
	for range rounds {
		for i := range s.sources {
			run := envelope.AppendLog(nil, envelope.Identity{SourceID: fmt.Sprint("app", i)}.Encode(), int64(s.written), envelope.Out, []byte("x"))
			s.b.router.WriteBatch(s.b.t.Context(), envelope.Batch{Records: run, Count: 1})
		}
		s.written++
	}
}

// check returns how many of the records came of those from number since on.
func (s *shards) check(since int, members ...*receiver) int {
	s.b.t.Helper()
	times := make(map[string]int)
	for k, m := range members {
		last := make(map[string]int64)
		for _, e := range m.all() {
			if at, ok := last[e.SourceId]; ok && e.Timestamp <= at {
				s.b.t.Errorf("member %d got %d of %s after %d", k, e.Timestamp, e.SourceId, at)
			}
			last[e.SourceId] = e.Timestamp
			times[fmt.Sprint(e.SourceId, " ", e.Timestamp)]++
		}
	}
	came := 0
	for i := range s.sources {
		for n := since; n < s.written; n++ {
			key := fmt.Sprint("app", i, " ", n)
			if times[key] > 1 {
				s.b.t.Errorf("record %s came %d times", key, times[key])
			}
			came += times[key]
		}
	}
	return came
}

func total(members ...*receiver) (n int) {
	for _, m := range members {
		n += len(m.all())
	}
	return n
}

func (s *shards) open(method string, a ask) *receiver {
	s.b.t.Helper()
	return open(s.b.t, dial(s.b.t, s.b.addr, nil), method, a.bytes())
}

// TestShards is who shares with whom.
func TestShards(t *testing.T) {
	for _, method := range []string{"BatchedReceiver", "Receiver"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			s := &shards{b: newBench(t, nil, nil, nil), sources: 30}
			x := ask{shard: "x", sel: logs()}
			one, two := s.open(method, x), s.open(method, x)
			other := s.open(method, ask{shard: "y", sel: logs()})
			everybody := s.open(method, ask{sel: logs()})
			wider := s.open(method, ask{shard: "x", sel: append(logs(), sel("", ofCounter))}) // same name, other selectors
			s.write(4)
			n := 4 * s.sources
			eventually(t, "all has come", func() bool {
				return total(one, two) >= n && total(other) >= n && total(everybody) >= n && total(wider) >= n
			})
			if s.check(0, one, two) != n || s.check(0, other) != n || s.check(0, everybody) != n || s.check(0, wider) != n {
				t.Errorf("members got %d and %d, others %d, %d and %d of %d", total(one), total(two), total(other), total(everybody), total(wider), n)
			}
			if total(one) == 0 || total(two) == 0 || total(one)%4 != 0 {
				t.Errorf("members got %d and %d: sources are whole, and each has some", total(one), total(two))
			}
		})
	}
}

// TestShardMembersLeave: what one read goes to the others from then on.
func TestShardMembersLeave(t *testing.T) {
	s := &shards{b: newBench(t, nil, nil, nil), sources: 30}
	x := ask{shard: "x", sel: logs()}
	members := []*receiver{s.open("BatchedReceiver", x), s.open("BatchedReceiver", x), s.open("BatchedReceiver", x)}
	for leaving := range members {
		s.write(3)
		n := s.written * s.sources
		eventually(t, "all has come", func() bool { return total(members...) >= n })
		if leaving < len(members)-1 {
			members[leaving].cancel()
			eventually(t, "the server knows", func() bool { return s.b.router.Stats().Readers == len(members)-1-leaving })
		}
	}
	if n := s.check(0, members...); n != s.written*s.sources {
		t.Errorf("%d of %d came", n, s.written*s.sources)
	}
	members[2].cancel()
	members[2].end()
	s.b.balance()
}

// TestShardMembersLeaveUnderLoad has members leave while they are sent more than
// they take: nothing comes twice, each member sees each source in order, and what
// has not come is what gRPC had taken for those that have left.
func TestShardMembersLeaveUnderLoad(t *testing.T) {
	s := &shards{b: newBench(t, nil, nil, nil), sources: 20}
	x := ask{shard: "x", sel: logs()}
	stays := s.open("BatchedReceiver", x)
	var all []*receiver
	var writing sync.WaitGroup
	var enough atomic.Bool
	writing.Go(func() {
		for !enough.Load() { // a few thousand records ahead of the readers
			s.write(50)
			for !enough.Load() && s.b.router.Stats().Delivered+10_000 < uint64(s.written*s.sources) {
				runtime.Gosched()
			}
		}
	})
	rng := rand.New(rand.NewPCG(1, 2))
	for range 12 {
		m := s.open("BatchedReceiver", x)
		all = append(all, m)
		m.wait(1 + rng.IntN(200))
		m.cancel()
		m.end()
	}
	enough.Store(true)
	writing.Wait()
	eventually(t, "the server knows who has left", func() bool { return s.b.router.Stats().Readers == 1 })
	before := s.written
	s.write(1) // these come last, and by them it is known that all has come
	eventually(t, "the last records", func() bool {
		n := 0
		for _, e := range stays.all() {
			if e.Timestamp == int64(before) {
				n++
			}
		}
		return n == s.sources
	})
	came := s.check(0, append(all, stays)...)
	stays.cancel()
	stays.end()
	s.b.balance()
	st, r := s.b.Stats(), s.b.router.Stats()
	if r.Missed != 0 || r.Delivered != uint64(s.written*s.sources) {
		t.Fatalf("the router: %+v", r)
	}
	// What was sent and did not come was on its way when a member left.
	if inFlight := int(st.RecordsSent) - came; inFlight < 0 || came+inFlight+int(st.Unsent) != s.written*s.sources || st.Unsent > 0 {
		t.Errorf("%d of %d came; %+v", came, s.written*s.sources, st)
	}
}

// TestHandOver: what a member was given but gRPC did not take is sent by another.
func TestHandOver(t *testing.T) {
	s := &shards{b: newBench(t, nil, nil, nil), sources: 20}
	x := ask{shard: "x", sel: logs()}
	hold := make(chan struct{})
	defer close(hold)
	ctx, cancel := context.WithCancel(t.Context())
	// A small window: the server cannot send more than that to one who reads nothing.
	cc := dial(t, s.b.addr, nil, grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10))
	stuck := openWith(t, ctx, cancel, cc, "BatchedReceiver", x.bytes(), func(r *receiver) { r.hold = hold })
	long := strings.Repeat("x", 1000)
	n := 0
	for i := range 100 {
		for j := range s.sources {
			run := envelope.AppendLog(nil, envelope.Identity{SourceID: fmt.Sprint("app", j)}.Encode(), int64(i), envelope.Out, []byte(long))
			s.b.router.WriteBatch(t.Context(), envelope.Batch{Records: run, Count: 1})
			n++
		}
	}
	eventually(t, "it is stuck", func() bool {
		return s.b.router.Stats().Delivered > s.b.Stats().RecordsSent+50
	})
	takes := s.open("BatchedReceiver", x) // its sources come to it when the other is done with them: never
	stuck.cancel()
	eventually(t, "the rest has come", func() bool {
		st := s.b.Stats()
		return st.HandedOver == 1 && st.Readers == 1 && int(st.RecordsSent) == n
	})
	sent := int(s.b.Stats().RecordsSent)
	eventually(t, "it has arrived", func() bool { return len(takes.all())+sentBefore(takes) >= sent })
	s.written = 100
	s.check(0, takes)
	takes.cancel()
	takes.end()
	s.b.balance()
	if st := s.b.Stats(); st.Unsent != 0 {
		t.Errorf("%+v", st)
	}
}

// sentBefore is how many records are missing at the beginning of the sources that
// r got: those that went to the member before.
func sentBefore(r *receiver) (n int) {
	first := make(map[string]bool)
	for _, e := range r.all() {
		if !first[e.SourceId] {
			first[e.SourceId] = true
			n += int(e.Timestamp)
		}
	}
	return n
}

// TestDeterministicNames: which member reads what follows from the names.
func TestDeterministicNames(t *testing.T) {
	s := &shards{b: newBench(t, nil, nil, nil), sources: 30}
	owners := func(names ...string) map[string]string {
		t.Helper()
		var members []*receiver
		for _, name := range names {
			members = append(members, s.open("BatchedReceiver", ask{shard: "x", name: name, sel: logs()}))
		}
		// What is there when a member comes may be another's up to its end.
		for i := range 2 {
			s.write(1)
			eventually(t, "all has come", func() bool { return total(members...) >= (i+1)*s.sources })
		}
		of, newest := make(map[string]string), make(map[string]int64)
		for i, m := range members {
			for _, e := range m.all() {
				if e.Timestamp >= newest[e.SourceId] {
					of[e.SourceId], newest[e.SourceId] = names[i], e.Timestamp
				}
			}
			m.cancel()
			m.end()
		}
		eventually(t, "all are gone", func() bool { return s.b.router.Stats().Readers == 0 })
		return of
	}
	first, again := owners("a", "b", "c"), owners("b", "c", "a")
	for source, name := range first {
		if again[source] != name {
			t.Errorf("%s went to %s, then to %s", source, name, again[source])
		}
	}
}

// TestGroupsAreOfOneUser: a shard_id is the user's own.
func TestGroupsAreOfOneUser(t *testing.T) {
	b := newBench(t, nil, grants{}, nil)
	of := func(token string) *receiver {
		ctx, cancel := context.WithCancel(bearer(t.Context(), token))
		return openWith(t, ctx, cancel, dial(t, b.addr, nil), "BatchedReceiver", ask{shard: "x", sel: logs()}.bytes())
	}
	admin, ann := of("admin"), of("ann")
	var lines []*pb.Envelope
	for i := range 20 {
		lines = append(lines, line("ann", fmt.Sprint(i)))
	}
	b.write(lines...)
	if a, b := texts(admin.wait(20)), texts(ann.wait(20)); a != b {
		t.Errorf("admin got %s, ann %s", a, b)
	}
}
