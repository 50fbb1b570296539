package logcache

import (
	"fmt"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// readRequest is the ReadRequest of the contract, for the reference decoder. It is
// not registered.
var readRequest = func() protoreflect.MessageDescriptor {
	type kind = descriptorpb.FieldDescriptorProto_Type
	field := func(name string, number int32, of kind) *descriptorpb.FieldDescriptorProto {
		label := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
		if number == 5 {
			label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED
		}
		return &descriptorpb.FieldDescriptorProto{Name: &name, Number: &number, Type: &of, Label: &label}
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("request.proto"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("ReadRequest"), Field: []*descriptorpb.FieldDescriptorProto{
			field("source_id", 1, descriptorpb.FieldDescriptorProto_TYPE_STRING),
			field("start_time", 2, descriptorpb.FieldDescriptorProto_TYPE_INT64),
			field("end_time", 3, descriptorpb.FieldDescriptorProto_TYPE_INT64),
			field("limit", 4, descriptorpb.FieldDescriptorProto_TYPE_INT64),
			field("envelope_types", 5, descriptorpb.FieldDescriptorProto_TYPE_INT32), // an enum is one on the wire
			field("descending", 6, descriptorpb.FieldDescriptorProto_TYPE_BOOL),
			field("name_filter", 7, descriptorpb.FieldDescriptorProto_TYPE_STRING),
		}}},
	}, nil)
	if err != nil {
		panic(err)
	}
	return file.Messages().Get(0)
}()

// FuzzRequest compares what is read of an encoded ReadRequest with protobuf's own
// decoder.
func FuzzRequest(f *testing.F) {
	a := field(nil, 1, "a")
	f.Add(field(field(field(a, 2, -5), 3, 7), 4, 1000))
	f.Add(field(field(field(a, 5, 1), 5, "\x02\x03"), 6, 1))
	f.Add(field(field(a, 7, ".*"), 99, "x"))
	f.Add([]byte("\x0a\x01\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxRequest {
			return
		}
		want := dynamicpb.NewMessage(readRequest)
		bad := proto.Unmarshal(b, want)
		got, err := parseRequest(b)
		if got != nil && len(got.types) > maxTypes {
			t.Fatal("too many types")
		}
		if bad != nil || err != nil {
			if (bad != nil) != (err != nil) && strings.Count(string(b), "") < maxTypes {
				t.Fatalf("%x: %v, want %v", b, err, bad)
			}
			return
		}
		at := func(i int) protoreflect.Value { return want.Get(readRequest.Fields().Get(i)) }
		ref := &raw{source: at(0).String(), start: at(1).Int(), end: at(2).Int(), limit: at(3).Int(), descending: at(5).Bool(), name: at(6).String()}
		for i := range at(4).List().Len() {
			ref.types = append(ref.types, at(4).List().Get(i).Int())
		}
		if !reflect.DeepEqual(got, ref) {
			t.Fatalf("%x:\n%+v, want\n%+v", b, got, ref)
		}
		got.check(time.Now())
	})
}

// FuzzQuery: parameters that are taken mean the same when they are written down
// again, and errors are short.
func FuzzQuery(f *testing.F) {
	f.Add("start_time=-6795364578871345152&descending=true&limit=1")
	f.Add("envelope_types=LOG&envelope_types=2&name_filter=%5Ea&end_time=9")
	f.Add("limit=&x=%zz")
	f.Fuzz(func(t *testing.T, query string) {
		m, err := parseQuery("a", query)
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		again := url.Values{}
		again.Set("start_time", fmt.Sprint(m.start))
		again.Set("end_time", fmt.Sprint(m.end))
		again.Set("limit", fmt.Sprint(m.limit))
		again.Set("descending", fmt.Sprint(m.descending))
		if m.name != "" {
			again.Set("name_filter", m.name)
		}
		for _, n := range m.types {
			again.Add("envelope_types", fmt.Sprint(n))
		}
		m2, err := parseQuery("a", again.Encode())
		slices.Sort(m.types) // which of two spellings comes first is not said
		if err == nil {
			slices.Sort(m2.types)
		}
		if err != nil || !reflect.DeepEqual(m, m2) {
			t.Fatalf("%q: %+v, and again %+v %v", query, m, m2, err)
		}
	})
}

// FuzzServe sends any address: the answer is one of the known kinds, bounded, and
// costs no memory that stays.
func FuzzServe(f *testing.F) {
	r := loggregator.New(nil)
	defer r.Close()
	var records []byte
	for i := range int64(50) {
		records = envelope.AppendLog(records, identity("a"), i-10, envelope.Out, []byte("text"))
		records = envelope.AppendGauge(records, identity("a"), i, envelope.Metric{Name: []byte("cpu")}, envelope.Metric{Name: []byte("mem")})
	}
	b, _ := envelope.Of(records)
	if err := r.WriteBatch(f.Context(), b); err != nil {
		f.Fatal(err)
	}
	s := New(access.NewGate(r, nil, nil), &Options{Sources: r})
	defer s.Close()
	f.Add("/api/v1/read/a?start_time=-5&limit=7")
	f.Add("/api/v1/read/a?name_filter=c.*&descending=1&end_time=9")
	f.Add("/api/v1/read/%61%2f?envelope_types=GAUGE")
	f.Add("/api/v1/meta")
	f.Add("/api/v1/info")
	f.Add("/api/v1/query")
	f.Fuzz(func(t *testing.T, address string) {
		u, err := url.ParseRequestURI(address)
		if err != nil || u.Host != "" {
			return
		}
		req := httptest.NewRequest("GET", "/", nil)
		req.URL = u
		w := httptest.NewRecorder()
		s.ServeHTTP(w, req)
		switch w.Code {
		case 200, 400, 404, 500, 501:
		default:
			t.Fatalf("%q: %d", address, w.Code)
		}
		if body := w.Body.String(); !strings.HasPrefix(body, "{") || !strings.HasSuffix(body, "}\n") || len(body) > 50_000 {
			t.Fatalf("%q: %d bytes %.100q", address, len(body), body)
		}
		if s := s.Stats(); s.Memory != 0 || s.Active != 0 {
			t.Fatalf("%q: %+v", address, s)
		}
	})
}
