package grpcv2

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/cloudfoundry/loggregator/envelope"
	pb "github.com/cloudfoundry/loggregator/envelope/envelopepb"
)

func seeds() (all [][]byte) {
	text := func(s string) *pb.Value { return &pb.Value{Data: &pb.Value_Text{Text: s}} }
	for _, e := range []*pb.Envelope{
		{}, line("a", "1"), counter("a", "c"), gauge("a", "g", "h"), timer("a"), event("a"),
		{Tags: map[string]string{"origin": "o", "x": ""}},
		{DeprecatedTags: map[string]*pb.Value{"origin": text("o"), "i": {Data: &pb.Value_Integer{Integer: -1}}, "d": {Data: &pb.Value_Decimal{Decimal: 1e300}}, "": {}}},
		{SourceId: "a", Tags: map[string]string{"x": "1"}, DeprecatedTags: map[string]*pb.Value{"x": text("2")}},
	} {
		m, _ := proto.Marshal(e)
		all = append(all, m, append(slices.Clone(m), m...)) // two of them merge
	}
	return append(all,
		[]byte{0x92, 0x00, 1, 'a'},                      // a source with a key longer than needed
		[]byte{0x9a, 0x00, 3, 0x0a, 1, 'k'},             // a deprecated tag with one
		[]byte{0x1a, 6, 0x0a, 1, 'k', 0x12, 1, 0x0a},    // one that does not parse
		[]byte{0x1a, 7, 0x0a, 1, 'k', 0x12, 2, 0x10, 5}, // a number
		[]byte{0x18, 5}, []byte{0x48, 5}, []byte{0x12, 0}, []byte{0x08, 0xff})
}

// preferred is what appendPreferred shall do, by protobuf.
func preferred(e *pb.Envelope, plain bool) {
	for k, v := range e.DeprecatedTags {
		if e.Tags == nil {
			e.Tags = make(map[string]string)
		}
		switch v := v.GetData().(type) {
		case *pb.Value_Text:
			e.Tags[k] = v.Text
		case *pb.Value_Integer:
			e.Tags[k] = strconv.FormatInt(v.Integer, 10)
		case *pb.Value_Decimal:
			if e.Tags[k] = fmt.Sprint(v.Decimal); plain {
				e.Tags[k] = strconv.FormatFloat(v.Decimal, 'f', -1, 64)
			}
		}
	}
	e.DeprecatedTags = nil
}

// deprecated is what appendDeprecated shall do.
func deprecated(e *pb.Envelope) {
	for k, v := range e.Tags {
		if e.DeprecatedTags == nil {
			e.DeprecatedTags = make(map[string]*pb.Value)
		}
		e.DeprecatedTags[k] = &pb.Value{Data: &pb.Value_Text{Text: v}}
	}
	e.Tags = nil
}

// FuzzTags compares what is done to encoded envelopes with what it shall be, by
// protobuf.
func FuzzTags(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, m []byte) {
		var in pb.Envelope
		valid := proto.Unmarshal(m, &in) == nil
		has := look(m)
		if valid && has&unusual == 0 {
			if got, want := has&hasDeprecated != 0, len(in.DeprecatedTags) > 0; got != want {
				t.Errorf("deprecated tags: %t, want %t", got, want)
			}
			if got, want := has&hasSource != 0, in.SourceId != ""; got != want {
				t.Errorf("source: %t, want %t", got, want)
			}
			if in.GetCounter() != nil && has&hasCounter == 0 {
				t.Error("a counter was not seen")
			}
		}
		for name, change := range map[string]struct {
			bytes   func() ([]byte, bool)
			message func(*pb.Envelope)
		}{
			"preferred":  {func() ([]byte, bool) { return appendPreferred(nil, m, false) }, func(e *pb.Envelope) { preferred(e, false) }},
			"plain":      {func() ([]byte, bool) { return appendPreferred(nil, m, true) }, func(e *pb.Envelope) { preferred(e, true) }},
			"deprecated": {func() ([]byte, bool) { return appendDeprecated(nil, m) }, deprecated},
		} {
			b, ok := change.bytes()
			if !valid {
				continue
			}
			want := proto.Clone(&in).(*pb.Envelope)
			change.message(want)
			var got pb.Envelope
			if err := proto.Unmarshal(b, &got); err != nil || !ok {
				t.Errorf("%s: %t, %v", name, ok, err)
			} else if !equal(&got, want) {
				t.Errorf("%s\ngot  %v\nwant %v", name, &got, want)
			}
		}
	})
}

// equal compares envelopes, whatever is not a number included, by their bytes.
func equal(a, b *pb.Envelope) bool {
	o := proto.MarshalOptions{Deterministic: true}
	x, _ := o.Marshal(a)
	y, _ := o.Marshal(b)
	return bytes.Equal(x, y) || proto.Equal(a, b)
}

// FuzzTidy checks what is done with a batch that comes in: records stay records,
// in their order, and each is what agents make of it.
func FuzzTidy(f *testing.F) {
	var run []byte
	for _, s := range seeds() {
		f.Add(envelope.AppendRecord(nil, s))
		run = envelope.AppendRecord(run, s)
	}
	f.Add(run)
	f.Fuzz(func(t *testing.T, m []byte) {
		b, err := envelope.ParseBatch(slices.Clone(m))
		if err != nil {
			return
		}
		var s Server
		in := slices.Clone(b.Records)
		plain := plainRun(b.Records)
		out := s.appendTidy(append([]byte(nil), b.Records[:plain]...), b.Records[plain:], false)
		if !bytes.Equal(in, b.Records) {
			t.Error("what was borrowed has changed")
		}
		got, err := envelope.Of(out)
		if err != nil || got.Count != b.Count {
			t.Fatalf("%d records became %d, %v", b.Count, got.Count, err)
		}
		for len(in) > 0 {
			e, rest, _ := envelope.Next(in)
			tidy, restOut, _ := envelope.Next(out)
			in, out = rest, restOut
			var want, is pb.Envelope
			if proto.Unmarshal(e, &want) != nil {
				continue // refused by the router, before and after
			}
			source := want.SourceId
			if source == "" {
				source = want.Tags["origin"]
			}
			preferred(&want, true)
			if want.SourceId = source; source == "" {
				want.SourceId = want.Tags["origin"]
			}
			if err := proto.Unmarshal(tidy, &is); err != nil || !equal(&is, &want) {
				t.Errorf("got  %v (%v)\nwant %v", &is, err, &want)
			}
		}
	})
}

// FuzzCut checks that messages are the records, one after the other, within caps.
func FuzzCut(f *testing.F) {
	f.Add([]byte("\x01\x02\xff\x00"), 2, 10)
	f.Fuzz(func(t *testing.T, lengths []byte, records, size int) {
		if records <= 0 || size <= 0 {
			return
		}
		var run []byte
		for _, n := range lengths {
			run = envelope.AppendRecord(run, make([]byte, n))
		}
		o := outbox{records: records, bytes: size}
		total := 0
		for rest := run; len(rest) > 0; {
			n, count := o.cut(rest)
			b, err := envelope.Of(rest[:n])
			if err != nil || b.Count != count || count == 0 || count > records || count > 1 && n > size {
				t.Fatalf("%d records in %d bytes: %v", count, n, err)
			}
			if count < records && n < len(rest) {
				if _, after, _ := envelope.Next(rest[n:]); len(rest)-len(after) <= size {
					t.Fatalf("%d records in %d bytes, and one more would do", count, n)
				}
			}
			total += count
			rest = rest[n:]
		}
		if total != len(lengths) {
			t.Errorf("%d of %d", total, len(lengths))
		}
	})
}

// egressRequest is the message's description, as protobuf has it.
var egressRequest = func() protoreflect.MessageDescriptor {
	field := func(name string, n int32, kind descriptorpb.FieldDescriptorProto_Type, of string) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: &name, Number: &n, Type: &kind, Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()}
		if of != "" {
			f.TypeName = &of
		}
		return f
	}
	const text, flag, message = descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_TYPE_BOOL, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
	repeated := func(f *descriptorpb.FieldDescriptorProto) *descriptorpb.FieldDescriptorProto {
		f.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
		return f
	}
	selector := &descriptorpb.DescriptorProto{Name: new("Selector"), OneofDecl: []*descriptorpb.OneofDescriptorProto{{Name: new("Message")}}}
	selector.Field = append(selector.Field, field("source_id", 1, text, ""))
	for i, of := range []string{"Empty", "Counter", "Gauge", "Empty", "Empty"} {
		f := field(fmt.Sprint("of", i), int32(i+2), message, ".t."+of)
		f.OneofIndex = new(int32(0))
		selector.Field = append(selector.Field, f)
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: new("t.proto"), Package: new("t"), Syntax: new("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{
			{Name: new("Request"), Field: []*descriptorpb.FieldDescriptorProto{
				field("shard_id", 1, text, ""), field("legacy_selector", 2, message, ".t.Selector"), field("use_preferred_tags", 3, flag, ""),
				repeated(field("selectors", 4, message, ".t.Selector")), field("deterministic_name", 5, text, ""),
			}},
			selector,
			{Name: new("Empty")},
			{Name: new("Counter"), Field: []*descriptorpb.FieldDescriptorProto{field("name", 1, text, "")}},
			{Name: new("Gauge"), Field: []*descriptorpb.FieldDescriptorProto{repeated(field("names", 1, text, ""))}},
		},
	}, nil)
	if err != nil {
		panic(err)
	}
	return file.Messages().ByName("Request")
}()

// reference is parseRequest by protobuf; ok is false where it does not parse.
func reference(m []byte) (r request, ok bool) {
	msg := dynamicpb.NewMessage(egressRequest)
	if proto.Unmarshal(m, msg) != nil {
		return r, false
	}
	get := func(of protoreflect.Message, n protoreflect.FieldNumber) protoreflect.Value {
		return of.Get(of.Descriptor().Fields().ByNumber(n))
	}
	read := func(of protoreflect.Message) (s selector) {
		s.source = get(of, 1).String()
		set := of.WhichOneof(of.Descriptor().Oneofs().Get(0))
		if set == nil {
			return s
		}
		s.kind = selectorKinds[set.Number()]
		member := of.Get(set).Message()
		switch s.kind {
		case envelope.KindCounter:
			if name := get(member, 1).String(); name != "" {
				s.names = []string{name}
			}
		case envelope.KindGauge:
			list := get(member, 1).List()
			for i := range list.Len() {
				if name := list.Get(i).String(); !slices.Contains(s.names, name) {
					s.names = append(s.names, name)
				}
			}
		}
		return s
	}
	r.shard, r.preferred, r.member = get(msg, 1).String(), get(msg, 3).Bool(), get(msg, 5).String()
	for list, i := get(msg, 4).List(), 0; i < list.Len(); i++ {
		r.selectors = append(r.selectors, read(list.Get(i).Message()))
	}
	if len(r.selectors) == 0 && msg.Has(egressRequest.Fields().ByNumber(2)) {
		r.selectors = []selector{read(get(msg, 2).Message())}
	}
	return r, true
}

// FuzzRequest compares what is read of a request with what protobuf reads.
func FuzzRequest(f *testing.F) {
	f.Add(ask{sel: logs()}.bytes())
	f.Add(ask{shard: "x", name: "n", old: true, legacy: sel("s", ofEvent)}.bytes())
	f.Add(ask{sel: [][]byte{sel("a", ofCounter, "n"), sel("", ofGauge, "x", "y", "x"), append(sel("a", ofGauge, "x"), sel("", ofGauge, "z")...)}}.bytes())
	f.Add(append(ask{legacy: sel("a", ofLog)}.bytes(), ask{legacy: sel("b", 0)}.bytes()...))
	f.Add(ask{sel: [][]byte{append(sel("a", ofCounter, "n"), sel("", ofTimer)...)}}.bytes())
	f.Fuzz(func(t *testing.T, m []byte) {
		got, err := parseRequest(m)
		want, ok := reference(m)
		if !ok || len(want.selectors) == 0 || slices.ContainsFunc(want.selectors, func(s selector) bool { return s.kind == envelope.KindNone }) {
			if ok && err == nil {
				t.Errorf("accepted: %+v", got)
			}
			return // what protobuf refuses may be accepted: nobody is harmed by it
		}
		if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("%v\ngot  %+v\nwant %+v", err, got, want)
		}
		sel := got.sel()
		if len(sel) == 0 || len(sel) > len(got.selectors) {
			t.Errorf("%d selectors became %d", len(got.selectors), len(sel))
		}
	})
}
