package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"

	"github.com/cloudfoundry/loggregator/envelope"
)

// target is a server.
type target struct {
	in, out       string
	inTLS, outTLS *tls.Config
	pids          []int
}

// scenario is who reads.
type scenario struct {
	name      string
	readers   int
	selective bool // each reads its share of the applications
	idle      int  // more that read what nobody logs
}

var scenarios = []scenario{
	{name: "one", readers: 1},
	{name: "ten-selectors", readers: 10, selective: true},
	{name: "ten-full", readers: 10},
	{name: "idle-1000", readers: 1, idle: 1000},
}

// result is what was measured. Rates are records a second while sending went on.
type result struct {
	in, out        float64
	sent, received uint64
	drops          int64
	p50, p99, max  time.Duration
	cpu            time.Duration // of the server
	rss            int64
}

func (r *result) cpuPer(records uint64) string {
	if r.cpu == 0 || records == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3f", r.cpu.Seconds()*1e6/float64(records))
}

// bytesCodec sends and receives messages as they are, so that the load costs as
// little as it can.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }
func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if b, ok := v.(*[]byte); ok {
		n := data.Len()
		*b = slices.Grow((*b)[:0], n)[:n]
		data.CopyTo(*b)
	}
	return nil
}

func dial(addr string, config *tls.Config) (*grpc.ClientConn, error) {
	return grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{}), grpc.MaxCallRecvMsgSize(64<<20)), grpc.WithDisableRetry())
}

const (
	batchRecords = 100
	timeSize     = 9 // bytes of a varint that is a time of these years
	plainTime    = int64(1_700_000_000_000_000_000)
)

func appID(i int) string { return fmt.Sprintf("5f6c7a1e-3a3b-4c1d-9e2f-%012d", i) }

// appendRecord appends a line of 200 bytes with six tags.
func appendRecord(dst []byte, app int) []byte {
	id := appID(app)
	f := envelope.Identity{SourceID: id, InstanceID: "0", Tags: map[string]string{
		"app_id": id, "app_name": fmt.Sprintf("shop-frontend-%03d", app), "space_name": "production-europe-west", "organization_name": "acme-international-retail",
		"source_type": "APP/PROC/WEB", "process_type": "web",
	}}.Encode()
	return envelope.AppendLog(dst, f, plainTime, envelope.Out, []byte(strings.Repeat("x", 200)))
}

// timeAt is where the time of the first record of a batch stands.
func timeAt(batch []byte) int {
	e, _, _ := envelope.Next(batch)
	return len(batch) - len(envelopeTail(batch, e)) + 1
}

func envelopeTail(batch []byte, e envelope.Envelope) []byte {
	_, rest, _ := envelope.Next(batch)
	return batch[len(batch)-len(rest)-len(e):]
}

// batches are those of one sender: the applications take turns.
func (s *settings) batches(seed int) (all [][]byte, apps []map[int]uint64) {
	next := seed
	for range max(1, s.apps*s.run/batchRecords) {
		var b []byte
		of := make(map[int]uint64)
		for i := range batchRecords {
			if i%s.run == 0 {
				next++
			}
			b = appendRecord(b, next%s.apps)
			of[next%s.apps]++
		}
		all, apps = append(all, b), append(apps, of)
	}
	return all, apps
}

// selector is an encoded Selector: logs, of one source if it is not empty.
func selector(source string) []byte {
	var m []byte
	if source != "" {
		m = append(append(m, 1<<3|2, byte(len(source))), source...)
	}
	return append(m, 2<<3|2, 0)
}

func request(selectors ...[]byte) []byte {
	m := []byte{3 << 3, 1} // use_preferred_tags
	for _, s := range selectors {
		m = append(append(m, 4<<3|2, byte(len(s))), s...)
	}
	return m
}

// everything is a selector of each kind, as a firehose has it.
func everything() (all [][]byte) {
	for kind := byte(2); kind <= 6; kind++ {
		all = append(all, []byte{kind<<3 | 2, 0})
	}
	return all
}

// reader is a stream that is read.
type reader struct {
	received atomic.Uint64
	last     atomic.Int64 // when, in nanoseconds
	delays   []time.Duration
	sources  map[int]bool // nil: all
}

// read opens the stream; the rest goes on until ctx ends.
func (r *reader) read(ctx context.Context, cc *grpc.ClientConn, req []byte, wg *sync.WaitGroup) error {
	stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/loggregator.v2.Egress/BatchedReceiver")
	if err != nil {
		return err
	}
	if err := errors.Join(stream.SendMsg(req), stream.CloseSend()); err != nil {
		return err
	}
	wg.Go(func() {
		var msg []byte
		for stream.RecvMsg(&msg) == nil {
			now := time.Now().UnixNano()
			n := uint64(0)
			for rest := msg; len(rest) > 0; n++ {
				e, tail, err := envelope.Next(rest)
				if err != nil {
					return
				}
				rest = tail
				if len(e) > 1+timeSize && e[0] == 1<<3 {
					if at, k := binary.Uvarint(e[1:]); k == timeSize && int64(at) != plainTime {
						r.delays = append(r.delays, time.Duration(now-int64(at)))
					}
				}
			}
			r.received.Add(n)
			r.last.Store(now)
		}
	})
	return nil
}

// send sends batches until ctx ends, and returns how many records of each
// application there were.
func (s *settings) send(ctx context.Context, cc *grpc.ClientConn, seed int, sent *atomic.Uint64) (map[int]uint64, error) {
	stream, err := cc.NewStream(context.WithoutCancel(ctx), &grpc.StreamDesc{ClientStreams: true}, "/loggregator.v2.Ingress/BatchSender")
	if err != nil {
		return nil, err
	}
	all, apps := s.batches(seed)
	at := timeAt(all[0])
	count := make(map[int]uint64)
	var pause time.Duration
	if s.rate > 0 {
		pause = time.Duration(float64(time.Second) * batchRecords * float64(s.senders) / float64(s.rate))
	}
	due := time.Now()
	for i := 0; ctx.Err() == nil; i++ {
		k := i % len(all)
		msg := slices.Clone(all[k]) // gRPC keeps it until it is written
		binary.PutUvarint(msg[at:], uint64(time.Now().UnixNano()))
		if err := stream.SendMsg(msg); err != nil {
			return nil, errors.Join(err, stream.RecvMsg(nil))
		}
		sent.Add(batchRecords)
		for app, n := range apps[k] {
			count[app] += n
		}
		if pause > 0 {
			due = due.Add(pause)
			if wait := time.Until(due); wait > 0 {
				time.Sleep(wait)
			}
		}
	}
	stream.CloseSend()
	stream.RecvMsg(nil) // whatever it says, it has read all
	return count, nil
}

// measure sends for a while to a server that has the scenario's readers.
func measure(ctx context.Context, t target, sc scenario, s *settings) (*result, error) {
	reading, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var conns []*grpc.ClientConn
	defer func() {
		stop()
		wg.Wait()
		for _, cc := range conns {
			cc.Close()
		}
	}()
	connect := func(addr string, config *tls.Config) (*grpc.ClientConn, error) {
		cc, err := dial(addr, config)
		if err == nil {
			conns = append(conns, cc)
		}
		return cc, err
	}
	readers := make([]*reader, sc.readers)
	for i := range readers {
		cc, err := connect(t.out, t.outTLS)
		if err != nil {
			return nil, err
		}
		r := &reader{}
		readers[i] = r
		req := request(everything()...)
		if sc.selective {
			r.sources = make(map[int]bool)
			var sel [][]byte
			for app := i; app < s.apps; app += sc.readers {
				r.sources[app] = true
				sel = append(sel, selector(appID(app)))
			}
			req = request(sel...)
		}
		if err := r.read(reading, cc, req, &wg); err != nil {
			return nil, err
		}
	}
	var quiet *grpc.ClientConn
	for i := range sc.idle {
		if i%50 == 0 {
			var err error
			if quiet, err = connect(t.out, t.outTLS); err != nil {
				return nil, err
			}
		}
		if err := new(reader).read(reading, quiet, request(selector(fmt.Sprint("nobody-", i))), &wg); err != nil {
			return nil, err
		}
	}
	senders := make([]*grpc.ClientConn, s.senders)
	for i := range senders {
		var err error
		if senders[i], err = connect(t.in, t.inTLS); err != nil {
			return nil, err
		}
	}
	if err := s.warm(ctx, senders[0], readers); err != nil {
		return nil, err
	}
	if s.lead > 0 {
		lead := *s
		lead.during = s.lead
		if _, err := lead.run1(ctx, t, senders, readers); err != nil {
			return nil, err
		}
	}
	return s.run1(ctx, t, senders, readers)
}

// warm sends batches until every reader gets some, and then waits until no more
// come.
func (s *settings) warm(ctx context.Context, cc *grpc.ClientConn, readers []*reader) error {
	deadline := time.Now().Add(30 * time.Second)
	for slices.ContainsFunc(readers, func(r *reader) bool { return r.received.Load() == 0 }) {
		if time.Now().After(deadline) {
			return errors.New("what is sent does not come to all readers")
		}
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		slow := *s
		slow.rate, slow.senders = 20_000, 1
		_, err := slow.send(short, cc, 0, new(atomic.Uint64))
		cancel()
		if err != nil {
			return err
		}
	}
	settle(ctx, readers)
	return ctx.Err()
}

// settle waits until nothing has come for a second.
func settle(ctx context.Context, readers []*reader) {
	for ctx.Err() == nil {
		last := int64(0)
		for _, r := range readers {
			last = max(last, r.last.Load())
		}
		wait := time.Second - time.Since(time.Unix(0, last))
		if wait <= 0 {
			return
		}
		time.Sleep(wait)
	}
}

// run1 is what is measured.
func (s *settings) run1(ctx context.Context, t target, senders []*grpc.ClientConn, readers []*reader) (*result, error) {
	before := make([]uint64, len(readers))
	skip := make([]int, len(readers))
	for i, r := range readers {
		before[i], skip[i] = r.received.Load(), len(r.delays) // nobody writes there now
	}
	var sent atomic.Uint64
	counts := make([]map[int]uint64, len(senders))
	errs := make([]error, len(senders))
	cpu, start := cpuTime(t.pids), time.Now()
	sending, cancel := context.WithTimeout(ctx, s.during)
	defer cancel()
	var wg sync.WaitGroup
	for i, cc := range senders {
		wg.Go(func() { counts[i], errs[i] = s.send(sending, cc, i*s.apps/len(senders), &sent) })
	}
	wg.Wait()
	took := time.Since(start)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	r := &result{sent: sent.Load()}
	for i := range readers {
		r.received += readers[i].received.Load() - before[i]
	}
	r.in, r.out = float64(r.sent)/took.Seconds(), float64(r.received)/took.Seconds()
	settle(ctx, readers)
	r.received = 0
	var delays []time.Duration
	for i, rd := range readers {
		got := rd.received.Load() - before[i]
		r.received += got
		want := r.sent
		if rd.sources != nil {
			want = 0
			for _, count := range counts {
				for app, n := range count {
					if rd.sources[app] {
						want += n
					}
				}
			}
		}
		r.drops += int64(want) - int64(got)
		delays = append(delays, rd.delays[skip[i]:]...)
	}
	r.cpu = cpuTime(t.pids) - cpu
	r.rss = rss(t.pids)
	if len(delays) > 0 {
		slices.Sort(delays)
		at := func(share float64) time.Duration { return delays[int(math.Ceil(share*float64(len(delays))))-1] }
		r.p50, r.p99, r.max = at(0.5), at(0.99), at(1)
	}
	return r, nil
}
