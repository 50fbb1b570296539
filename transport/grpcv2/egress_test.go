package grpcv2

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	pb "github.com/cloudfoundry/loggregator/envelope/envelopepb"
	"github.com/cloudfoundry/loggregator/transport/access"
)

func counter(source, name string) *pb.Envelope {
	return &pb.Envelope{SourceId: source, Message: &pb.Envelope_Counter{Counter: &pb.Counter{Name: name, Delta: 1, Total: 1}}}
}

func gauge(source string, names ...string) *pb.Envelope {
	metrics := make(map[string]*pb.GaugeValue)
	for _, name := range names {
		metrics[name] = &pb.GaugeValue{Value: 1}
	}
	return &pb.Envelope{SourceId: source, Message: &pb.Envelope_Gauge{Gauge: &pb.Gauge{Metrics: metrics}}}
}

func timer(source string) *pb.Envelope {
	return &pb.Envelope{SourceId: source, Message: &pb.Envelope_Timer{Timer: &pb.Timer{Name: "t"}}}
}

func event(source string) *pb.Envelope {
	return &pb.Envelope{SourceId: source, Message: &pb.Envelope_Event{Event: &pb.Event{Title: "e"}}}
}

// describe names an envelope in a word.
func describe(e *pb.Envelope) string {
	switch {
	case e.GetLog() != nil:
		return e.SourceId + ":log"
	case e.GetCounter() != nil:
		return e.SourceId + ":" + e.GetCounter().Name
	case e.GetGauge() != nil:
		return fmt.Sprint(e.SourceId, ":gauge", len(e.GetGauge().Metrics))
	case e.GetTimer() != nil:
		return e.SourceId + ":timer"
	case e.GetEvent() != nil:
		return e.SourceId + ":event"
	}
	return e.SourceId + ":none"
}

// TestSelectors is which records a request's selectors select, by both methods.
func TestSelectors(t *testing.T) {
	written := []*pb.Envelope{
		line("a", "1"), line("b", "1"), counter("a", "hits"), counter("b", "hits"), counter("a", "misses"),
		gauge("a", "cpu"), gauge("a", "cpu", "memory"), timer("a"), event("b"), {SourceId: "a"},
	}
	for name, tt := range map[string]struct {
		req  ask
		want string
	}{
		"log of any source":          {ask{sel: logs()}, "a:log b:log"},
		"log of one":                 {ask{sel: [][]byte{sel("b", ofLog)}}, "b:log"},
		"counter":                    {ask{sel: [][]byte{sel("", ofCounter)}}, "a:hits b:hits a:misses"},
		"counter by exact name":      {ask{sel: [][]byte{sel("", ofCounter, "hits")}}, "a:hits b:hits"},
		"counter by part of a name":  {ask{sel: [][]byte{sel("", ofCounter, "hit")}}, ""},
		"counter by name and source": {ask{sel: [][]byte{sel("a", ofCounter, "hits")}}, "a:hits"},
		"gauge":                      {ask{sel: [][]byte{sel("", ofGauge)}}, "a:gauge1 a:gauge2"},
		"gauge, all its names":       {ask{sel: [][]byte{sel("", ofGauge, "memory", "cpu")}}, "a:gauge2"},
		"gauge, not all of them":     {ask{sel: [][]byte{sel("", ofGauge, "cpu")}}, "a:gauge1"},
		"gauge, too many":            {ask{sel: [][]byte{sel("", ofGauge, "cpu", "memory", "disk")}}, ""},
		"timer":                      {ask{sel: [][]byte{sel("", ofTimer)}}, "a:timer"},
		"event":                      {ask{sel: [][]byte{sel("", ofEvent)}}, "b:event"},
		"several, each record once":  {ask{sel: [][]byte{sel("a", ofLog), sel("", ofLog), sel("a", ofLog)}}, "a:log b:log"},
		"several kinds":              {ask{sel: [][]byte{sel("a", ofLog), sel("b", ofEvent)}}, "a:log b:event"},
		"a name here, none there":    {ask{sel: [][]byte{sel("a", ofCounter, "misses"), sel("b", ofCounter), sel("b", ofLog)}}, "b:log b:hits a:misses"},
		"all kinds":                  {ask{sel: all()}, "a:log b:log a:hits b:hits a:misses a:gauge1 a:gauge2 a:timer b:event a:none"},
		"legacy":                     {ask{legacy: sel("a", ofLog)}, "a:log"},
		"legacy beside others":       {ask{legacy: sel("a", ofLog), sel: [][]byte{sel("b", ofLog)}}, "b:log"},
	} {
		for _, method := range []string{"BatchedReceiver", "Receiver"} {
			t.Run(name+"/"+method, func(t *testing.T) {
				t.Parallel()
				b := newBench(t, nil, nil, nil)
				cc := dial(t, b.addr, nil)
				r := open(t, cc, method, tt.req.bytes())
				b.write(written...)
				want := make(map[string]int)
				for word := range strings.FieldsSeq(tt.want) {
					want[word]++
				}
				r.wait(len(strings.Fields(tt.want)))
				eventually(t, "all is read", func() bool {
					s, rs := b.Stats(), b.router.Stats()
					return rs.Delivered == s.RecordsSent+s.Filtered && int(s.RecordsSent) == len(r.all())
				})
				for _, e := range r.all() {
					want[describe(e)]--
				}
				for word, n := range want {
					if n != 0 {
						t.Errorf("%s: %d missing", word, n)
					}
				}
				r.cancel()
				r.end()
				b.balance()
			})
		}
	}
}

// TestEgressRefusals is what the stock server says to requests that are none.
func TestEgressRefusals(t *testing.T) {
	b := newBench(t, nil, nil, &access.Options{MaxReaders: 1})
	cc := dial(t, b.addr, nil)
	many := ask{}
	for i := range maxSelectors + 1 {
		many.sel = append(many.sel, sel(fmt.Sprint(i), ofLog))
	}
	for name, tt := range map[string]struct {
		req  []byte
		code codes.Code
		says string
	}{
		"no selectors":            {ask{}.bytes(), codes.InvalidArgument, "Selectors cannot be empty"},
		"a selector of nothing":   {ask{sel: [][]byte{sel("a", 0)}}.bytes(), codes.InvalidArgument, "Selectors must have a Message"},
		"one good, one without":   {ask{sel: [][]byte{sel("a", ofLog), sel("b", 0)}}.bytes(), codes.InvalidArgument, "Selectors must have a Message"},
		"legacy without":          {ask{legacy: []byte{}}.bytes(), codes.InvalidArgument, "Selectors must have a Message"},
		"rubbish":                 {[]byte{0x0a, 0xff}, codes.InvalidArgument, "not an EgressRequest"},
		"text that is none":       {ask{shard: "\xff", sel: logs()}.bytes(), codes.InvalidArgument, "not an EgressRequest"},
		"a selector that is none": {ask{sel: [][]byte{{0x0a, 0xff}}}.bytes(), codes.InvalidArgument, "not an EgressRequest"},
		"too many selectors":      {many.bytes(), codes.InvalidArgument, "at most 10000 selectors"},
		"too long":                {append(ask{sel: logs()}.bytes(), make([]byte, maxRequest)...), codes.InvalidArgument, "at most 1048576 bytes"},
	} {
		for _, method := range []string{"BatchedReceiver", "Receiver"} {
			err := open(t, cc, method, tt.req).end()
			if status.Code(err) != tt.code || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s, %s: %v", name, method, err)
			}
		}
	}
	r := open(t, cc, "BatchedReceiver", ask{sel: logs()}.bytes())
	eventually(t, "a reader", func() bool { return b.Stats().Readers == 1 })
	err := open(t, cc, "Receiver", ask{sel: logs()}.bytes()).end()
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "unable to create stream, max egress streams reached: ") {
		t.Errorf("too many: %v", err)
	}
	r.cancel()
	r.end()
	eventually(t, "no reader", func() bool { return b.gate.Stats().Readers == 0 })
	b.write(line("a", "before")) // what was there before is not sent
	r = open(t, cc, "Receiver", ask{sel: logs()}.bytes())
	b.write(line("a", "after"))
	if got := texts(r.wait(1)); got != "after" {
		t.Errorf("got %s", got)
	}
	r.cancel()
	r.end()
	b.balance()
}

// TestTagsOnEgress is where readers find tags.
func TestTagsOnEgress(t *testing.T) {
	text := func(s string) *pb.Value { return &pb.Value{Data: &pb.Value_Text{Text: s}} }
	in := &pb.Envelope{
		SourceId: "a", Tags: map[string]string{"x": "new", "both": "new"},
		DeprecatedTags: map[string]*pb.Value{"both": text("old"), "i": {Data: &pb.Value_Integer{Integer: -7}}, "d": {Data: &pb.Value_Decimal{Decimal: 1e21}}, "none": {}},
		Message:        &pb.Envelope_Log{Log: &pb.Log{Payload: []byte("1")}},
	}
	preferred := proto.Clone(in).(*pb.Envelope)
	preferred.DeprecatedTags = nil
	preferred.Tags = map[string]string{"x": "new", "both": "old", "i": "-7", "d": "1e+21"}
	old := proto.Clone(in).(*pb.Envelope)
	old.Tags = nil
	old.DeprecatedTags["x"], old.DeprecatedTags["both"] = text("new"), text("new")
	plain := line("b", "2")
	plainOld := proto.Clone(plain).(*pb.Envelope)
	plainOld.Tags, plainOld.DeprecatedTags = nil, map[string]*pb.Value{"source_type": text("APP/PROC/WEB")}

	b := newBench(t, nil, nil, nil)
	cc := dial(t, b.addr, nil)
	want := map[*receiver][]*pb.Envelope{
		open(t, cc, "BatchedReceiver", ask{sel: logs()}.bytes()):            {preferred, plain},
		open(t, cc, "Receiver", ask{sel: logs()}.bytes()):                   {preferred, plain},
		open(t, cc, "BatchedReceiver", ask{sel: logs(), old: true}.bytes()): {old, plainOld},
		open(t, cc, "Receiver", ask{sel: logs(), old: true}.bytes()):        {old, plainOld},
	}
	b.write(in, plain)
	for r, want := range want {
		got := r.wait(2)
		for i := range want {
			if !proto.Equal(got[i], want[i]) {
				t.Errorf("got  %v\nwant %v", got[i], want[i])
			}
		}
		r.cancel()
		r.end()
	}
	b.balance()
}

// TestBatchCaps: batches end at the number of records and at the number of bytes,
// and a record that is larger goes alone.
func TestBatchCaps(t *testing.T) {
	for _, tt := range []struct {
		name  string
		o     Options
		size  int // of a line
		count int // most records expected in a message
		bytes int // most bytes, if there is more than one record
	}{
		{"by default", Options{}, 20, 100, chunkSize},
		{"by count", Options{MaxRecords: 7}, 20, 7, chunkSize},
		{"by bytes", Options{MaxBytes: 1000}, 200, 4, 1000},
		{"a record larger than a batch", Options{MaxBytes: 1000}, 100_000, 1, 1000},
		{"more bytes than a chunk", Options{MaxBytes: 1 << 30}, 20_000, 3, chunkSize},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, &tt.o, nil, nil)
			r := open(t, dial(t, b.addr, nil), "BatchedReceiver", ask{sel: logs()}.bytes())
			n := min(2000, 20_000_000/tt.size)
			payload := []byte(strings.Repeat("x", tt.size))
			f := envelope.Identity{SourceID: "a"}.Encode()
			var run []byte
			for i := range n {
				run = envelope.AppendLog(run, f, int64(i), envelope.Out, payload)
			}
			b.router.WriteBatch(t.Context(), envelope.Batch{Records: run, Count: n})
			got := r.wait(n)
			most := 0
			for i, count := range r.counts {
				most = max(most, count)
				if count > tt.count || count > 1 && r.sizes[i] > tt.bytes {
					t.Fatalf("%d records of %d bytes", count, r.sizes[i])
				}
			}
			if most < min(tt.count, n) {
				t.Errorf("no message has more than %d records", most)
			}
			for i, e := range got {
				if e.Timestamp != int64(i) {
					t.Fatalf("record %d is number %d", i, e.Timestamp)
				}
			}
			r.cancel()
			r.end()
			b.balance()
		})
	}
}

// TestSlowReader: one that falls behind is told how much it missed, in the place
// where it is missing; or counted if it reads no logs.
func TestSlowReader(t *testing.T) {
	router := loggregator.New(&loggregator.Options{Budget: 1 << 20})
	defer router.Close()
	b := &bench{t: t, router: router, gate: access.NewGate(router, nil, nil)}
	b.Server = NewServer(router, b.gate, nil)
	b.addr = serve(t, b.Server)
	cc := dial(t, b.addr, nil)
	hold := make(chan struct{})
	holding := func(r *receiver) { r.hold = hold }
	slow := open(t, cc, "BatchedReceiver", ask{sel: logs()}.bytes(), holding)
	old := open(t, dial(t, b.addr, nil), "BatchedReceiver", ask{sel: logs(), old: true}.bytes(), holding)
	counters := open(t, dial(t, b.addr, nil), "BatchedReceiver", ask{sel: [][]byte{sel("", ofCounter)}}.bytes(), holding)
	const n = 20_000
	f := envelope.Identity{SourceID: "a", InstanceID: "3", Tags: map[string]string{"app_name": "shop"}}.Encode()
	payload := strings.Repeat("x", 500)
	for i := range n {
		run := envelope.AppendLog(nil, f, int64(i), envelope.Out, fmt.Appendf(nil, "%d %s", i, payload))
		run = envelope.AppendCounter(run, f, int64(i), payload, uint64(i), 1)
		router.WriteBatch(t.Context(), envelope.Batch{Records: run, Count: 2})
	}
	close(hold)
	last := func(r *receiver) func() bool {
		return func() bool {
			got := r.all()
			return len(got) > 0 && got[len(got)-1].Timestamp == n-1
		}
	}
	for _, r := range []*receiver{slow, old, counters} {
		eventually(t, "the last record", last(r))
		r.cancel()
		r.end()
	}
	tag := func(e *pb.Envelope, key string) string {
		if v := e.DeprecatedTags[key]; v != nil {
			return v.GetText()
		}
		return e.Tags[key]
	}
	for name, r := range map[string]*receiver{"slow": slow, "old": old} {
		next, told := int64(0), 0
		for _, e := range r.all() {
			if tag(e, envelope.TagSourceType) == envelope.SourceTypeLGR {
				var missing int
				fmt.Sscan(tag(e, envelope.TagMissed), &missing)
				told++
				if e.SourceId != "a" || e.InstanceId != "3" || tag(e, "app_name") != "shop" || e.GetLog().Type != pb.Log_ERR || !strings.Contains(string(e.GetLog().Payload), "lines are missing here") {
					t.Errorf("%s: told by %v", name, e)
				}
				next = -int64(missing)
				continue
			}
			if next >= 0 && e.Timestamp != next {
				t.Fatalf("%s: record %d follows %d and nobody says that any are missing", name, e.Timestamp, next-1)
			}
			next = e.Timestamp + 1
		}
		if told == 0 {
			t.Errorf("%s: was never told", name)
		}
	}
	for _, e := range counters.all() {
		if e.GetCounter() == nil {
			t.Fatalf("a reader of counters got %v", e)
		}
	}
	b.balance()
	if s := b.Stats(); s.Told == 0 || s.Untold == 0 || s.Marked == 0 {
		t.Errorf("%+v", s)
	}
}

// grants lets bearers of tokens read sources of their names.
type grants struct{ expires time.Time }

func (g grants) Authorize(_ context.Context, token string, sel []envelope.Selector) (access.Grant, error) {
	grant := access.Grant{User: token, Expires: g.expires}
	switch token {
	case "admin":
		grant.Select = sel
		return grant, nil
	case "ann", "bob":
		for _, s := range sel {
			if s.SourceID != "" && s.SourceID != token {
				return grant, access.ErrDenied
			}
			s.SourceID = token
			grant.Select = append(grant.Select, s)
		}
		return grant, nil
	}
	return grant, access.ErrToken
}

func bearer(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// TestAuthorizer: readers see what their token grants, and nothing else.
func TestAuthorizer(t *testing.T) {
	b := newBench(t, nil, grants{}, nil)
	cc := dial(t, b.addr, nil)
	ask := func(ctx context.Context, source string) *receiver {
		ctx, cancel := context.WithCancel(ctx)
		return openWith(t, ctx, cancel, cc, "BatchedReceiver", ask{sel: [][]byte{sel(source, ofLog)}}.bytes())
	}
	for name, tt := range map[string]struct {
		ctx    context.Context
		source string
		want   codes.Code
	}{
		"no token":        {t.Context(), "ann", codes.Unauthenticated},
		"unknown token":   {bearer(t.Context(), "eve"), "ann", codes.Unauthenticated},
		"two tokens":      {bearer(bearer(t.Context(), "ann"), "admin"), "ann", codes.Unauthenticated},
		"basic":           {metadata.AppendToOutgoingContext(t.Context(), "authorization", "Basic ann"), "ann", codes.Unauthenticated},
		"another's":       {bearer(t.Context(), "ann"), "bob", codes.NotFound},
		"what is nowhere": {bearer(t.Context(), "ann"), "nowhere", codes.NotFound},
	} {
		if err := ask(tt.ctx, tt.source).end(); status.Code(err) != tt.want || strings.Contains(err.Error(), "eve") {
			t.Errorf("%s: %v", name, err)
		}
	}
	everything, own, admin := ask(bearer(t.Context(), "ann"), ""), ask(bearer(t.Context(), "ann"), "ann"), ask(bearer(t.Context(), "admin"), "")
	b.write(line("bob", "secret"), line("ann", "1"), line("carl", "secret"), line("ann", "2"))
	for _, r := range []*receiver{everything, own} {
		if got := texts(r.wait(2)); got != "1 2" {
			t.Errorf("ann got %s", got)
		}
	}
	admin.wait(4)
	for _, r := range []*receiver{everything, own, admin} {
		r.cancel()
		r.end()
	}
	b.balance()
	if s := b.gate.Stats(); s.BadToken != 4 || s.Denied != 2 || s.Admitted != 3 {
		t.Errorf("%+v", s)
	}
}

// TestTokenExpires: a stream ends with its token.
func TestTokenExpires(t *testing.T) {
	b := newBench(t, nil, grants{expires: time.Now().Add(300 * time.Millisecond)}, nil)
	ctx, cancel := context.WithCancel(bearer(t.Context(), "ann"))
	r := openWith(t, ctx, cancel, dial(t, b.addr, nil), "BatchedReceiver", ask{sel: logs()}.bytes())
	if err := r.end(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("%v", err)
	}
	b.balance()
}

// TestShutdownEndsReaders: they get what was read for them, and OK.
func TestShutdownEndsReaders(t *testing.T) {
	b := newBench(t, nil, nil, nil)
	cc := dial(t, b.addr, nil)
	r := open(t, cc, "BatchedReceiver", ask{sel: logs()}.bytes())
	b.write(line("a", "1"), line("a", "2"))
	r.wait(2)
	if err := b.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.end(); err != io.EOF {
		t.Errorf("%v", err)
	}
	if err := open(t, cc, "BatchedReceiver", ask{sel: logs()}.bytes()).end(); status.Code(err) != codes.Unavailable {
		t.Errorf("after Shutdown: %v", err)
	}
	b.balance()
}

// TestShutdownCutsOff: a reader that takes nothing does not hold it up for ever.
func TestShutdownCutsOff(t *testing.T) {
	b := newBench(t, nil, nil, nil)
	hold := make(chan struct{})
	defer close(hold)
	open(t, dial(t, b.addr, nil), "BatchedReceiver", ask{sel: logs()}.bytes(), func(r *receiver) { r.hold = hold })
	for range 3000 {
		b.write(line("a", strings.Repeat("x", 1000)))
	}
	eventually(t, "it is stuck", func() bool { return b.router.Stats().Delivered > b.Stats().RecordsSent+10 })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := b.Shutdown(ctx); err != context.DeadlineExceeded {
		t.Errorf("%v", err)
	}
	if s := b.Stats(); s.Unsent == 0 {
		t.Errorf("%+v", s)
	}
	b.balance()
}

// TestToldInItsPlace: what is missing is told with the next record of the same
// ring, once; what no record follows is counted. The end of the Source is OK.
func TestToldInItsPlace(t *testing.T) {
	reset := ringBatch(3, 2, 0, "c")
	reset.Reset = true
	because := ringBatch(2, 9, 1, "late")
	because.Reason = envelope.ReasonRate
	src := &scripted{[]envelope.Batch{
		ringBatch(1, 2, 0, "a"), ringBatch(1, 5, 3), ringBatch(2, 2, 0, "b"), ringBatch(1, 8, 2, "a2"), because, reset, ringBatch(4, 8, 7),
	}}
	s := NewServer(nil, access.NewGate(src, nil, nil), nil)
	cc := dial(t, serve(t, s), nil)
	for _, tt := range []struct {
		req  ask
		want []string
	}{
		{ask{sel: logs()}, []string{
			"a", "b", "5 lines are missing here: this reader was too slow", "a2", "1 line is missing here: rate limit", "late",
			"lines are missing here, their number is not known: the server was started anew", "c",
		}},
		// A reader of other kinds would not know what to make of a line.
		{ask{sel: [][]byte{sel("", ofTimer)}}, []string{"a", "b", "a2", "late", "c"}},
	} {
		for _, method := range []string{"BatchedReceiver", "Receiver"} {
			r := open(t, cc, method, tt.req.bytes())
			if err := r.end(); err != io.EOF {
				t.Errorf("%v", err)
			}
			var got []string
			for _, e := range r.all() {
				got = append(got, string(e.GetLog().GetPayload()))
			}
			if strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
				t.Errorf("%s got\n%s", method, strings.Join(got, "\n"))
			}
		}
	}
	if st := s.Stats(); st.Missed != 4*13 || st.Told != 2*6 || st.Marked != 2*3 || st.Untold != 2*7+2*13 || st.RecordsSent != 2*8+2*5 {
		t.Errorf("%+v", st)
	}
}
