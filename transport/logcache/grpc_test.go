package logcache

import (
	"context"
	"maps"
	"net"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/cloudfoundry/loggregator/envelope/envelopepb"
	"github.com/cloudfoundry/loggregator/transport/grpcv2"
)

// dial serves c, beside the v2 API or alone, and returns a client of it.
func (c *cache) dial(shared bool) *grpc.ClientConn {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	if shared {
		s := grpcv2.NewServer(nil, c.gate, &grpcv2.Options{Services: c.Register})
		c.t.Cleanup(func() { s.Close() })
		go s.Serve(ln)
	} else {
		s := grpc.NewServer(ServerOption())
		c.Register(s)
		c.t.Cleanup(s.Stop)
		go s.Serve(ln)
	}
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{})))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

// field appends a field of a message: a number or a string.
func field(b []byte, num protowire.Number, v any) []byte {
	b = slices.Clip(b)
	switch v := v.(type) {
	case int:
		return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), uint64(v))
	case string:
		return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), v)
	}
	panic("no such field")
}

func (c *cache) grpcRead(conn *grpc.ClientConn, ctx context.Context, request []byte) ([]int64, error) {
	c.t.Helper()
	var out message
	if err := conn.Invoke(ctx, "/logcache.v1.Egress/Read", &message{request}, &out); err != nil {
		return nil, err
	}
	num, _, n := protowire.ConsumeTag(out.b)
	inner, m := protowire.ConsumeBytes(out.b[max(n, 0):])
	if num != 1 || n+m != len(out.b) {
		c.t.Fatalf("not a ReadResponse: %x", out.b)
	}
	var b envelopepb.EnvelopeBatch
	if err := proto.Unmarshal(inner, &b); err != nil {
		c.t.Fatal(err)
	}
	var times []int64
	for _, e := range b.Batch {
		times = append(times, e.Timestamp)
	}
	return times, nil
}

// TestGRPCRead is the table of a ReadRequest's fields, over a server of its own and
// one that the v2 API is served by, too.
func TestGRPCRead(t *testing.T) {
	for _, shared := range []bool{false, true} {
		c := newCache(t, nil, nil)
		c.log("a", 1, 2, 3, 3, 4)
		c.log("b", 7)
		conn := c.dial(shared)
		a := field(nil, 1, "a")
		for name, test := range map[string]struct {
			request []byte
			want    []int64
		}{
			"source_id":              {a, []int64{1, 2, 3, 3, 4}},
			"start_time":             {field(a, 2, 3), []int64{3, 3, 4}},
			"start_time, negative":   {field(a, 2, -5), []int64{1, 2, 3, 3, 4}},
			"end_time":               {field(a, 3, 3), []int64{1, 2}},
			"limit":                  {field(a, 4, 3), []int64{1, 2, 3, 3}},
			"envelope_types":         {field(field(a, 5, 1), 5, 2), []int64{1, 2, 3, 3, 4}},
			"envelope_types, packed": {field(a, 5, "\x02\x03"), nil},
			"descending":             {field(field(a, 6, 1), 4, 2), []int64{4, 3, 3}},
			"name_filter":            {field(a, 7, ".*"), nil},
			"no source":              {nil, nil},
			"unknown fields":         {field(field(a, 99, "x"), 98, 7), []int64{1, 2, 3, 3, 4}},
		} {
			if got, err := c.grpcRead(conn, t.Context(), test.request); err != nil || !slices.Equal(got, test.want) {
				t.Errorf("%s: %v %v, want %v", name, got, err, test.want)
			}
		}
		for name, test := range map[string]struct {
			request []byte
			want    codes.Code
		}{
			"limit above 1000":    {field(a, 4, 1001), codes.Unknown},
			"limit below 0":       {field(a, 4, -1), codes.Unknown},
			"start after end":     {field(field(a, 2, 5), 3, 4), codes.Unknown},
			"not a regexp":        {field(a, 7, "("), codes.Unknown},
			"malformed":           {[]byte{0xff}, codes.InvalidArgument},
			"not UTF-8":           {field(nil, 1, "\xff"), codes.InvalidArgument},
			"longer than allowed": {field(a, 99, string(make([]byte, maxRequest))), codes.InvalidArgument},
		} {
			if _, err := c.grpcRead(conn, t.Context(), test.request); status.Code(err) != test.want {
				t.Errorf("%s: %v", name, err)
			}
		}
		for method, want := range map[string]codes.Code{
			"/logcache.v1.PromQLQuerier/InstantQuery": codes.Unimplemented,
			"/logcache.v1.PromQLQuerier/RangeQuery":   codes.Unimplemented,
			"/logcache.v1.Ingress/Send":               codes.Unimplemented,
		} {
			if err := conn.Invoke(t.Context(), method, &message{}, &message{}); status.Code(err) != want {
				t.Errorf("%s: %v", method, err)
			}
		}
	}
}

func TestGRPCMeta(t *testing.T) {
	c := newCache(t, owners{"anna": {"a", "b"}}, nil)
	c.log("a", 5, 9)
	c.log("b", -2)
	c.log("other", 1)
	conn := c.dial(true)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "bearer anna")
	var out message
	if err := conn.Invoke(ctx, "/logcache.v1.Egress/Meta", &message{field(nil, 1, 1)}, &out); err != nil {
		t.Fatal(err)
	}
	got := map[string][4]int64{}
	for b := out.b; len(b) > 0; {
		_, _, n := protowire.ConsumeTag(b)
		entry, m := protowire.ConsumeBytes(b[n:])
		b = b[n+m:]
		_, _, n = protowire.ConsumeTag(entry)
		id, m := protowire.ConsumeString(entry[n:])
		entry = entry[n+m:]
		_, _, n = protowire.ConsumeTag(entry)
		info, _ := protowire.ConsumeBytes(entry[n:])
		var v [4]int64
		for len(info) > 0 {
			num, _, n := protowire.ConsumeTag(info)
			x, m := protowire.ConsumeVarint(info[n:])
			v[num-1], info = int64(x), info[n+m:]
		}
		got[id] = v
	}
	if want := map[string][4]int64{"a": {2, 0, 5, 9}, "b": {1, 0, -2, -2}}; !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
	for method, want := range map[string]codes.Code{"Meta": codes.Unauthenticated, "Read": codes.Unauthenticated} {
		if err := conn.Invoke(t.Context(), "/logcache.v1.Egress/"+method, &message{}, &message{}); status.Code(err) != want {
			t.Errorf("%s without token: %v", method, err)
		}
	}
	if _, err := c.grpcRead(conn, ctx, field(nil, 1, "other")); status.Code(err) != codes.NotFound {
		t.Errorf("another's: %v", err)
	}
	if got, err := c.grpcRead(conn, ctx, field(nil, 1, "a")); err != nil || len(got) != 2 {
		t.Errorf("own: %v %v", got, err)
	}
}

// TestGRPCPageFitsAClient: an answer is not larger than a stock client takes, and
// the rest comes with the next pages.
func TestGRPCPageFitsAClient(t *testing.T) {
	c := newCache(t, nil, nil)
	text := string(make([]byte, 10_000))
	for i := range int64(1000) {
		c.write(logLine("a", i+1, text))
	}
	conn := c.dial(false)
	next, pages := 1, 0
	for {
		got, err := c.grpcRead(conn, t.Context(), field(field(field(nil, 1, "a"), 2, next), 4, 1000))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			break
		}
		for _, at := range got {
			if at != int64(next) {
				t.Fatalf("%d in place of %d", at, next)
			}
			next++
		}
		pages++
	}
	if next != 1001 || pages > 10 {
		t.Errorf("%d in %d pages", next-1, pages)
	}
}
