package syslogin

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/go-syslog/v3"
	"github.com/influxdata/go-syslog/v3/octetcounting"

	"github.com/cloudfoundry/loggregator/internal/taken"
)

// frames feeds a stream to a framer in pieces, and returns the records.
func frames(t testing.TB, limit int, stream []byte, piece func() int) ([]taken.Record, *Server) {
	t.Helper()
	dst := taken.New(t)
	s := NewServer(dst, &Options{MaxMessage: limit})
	in := newIntake(s, true, "")
	r := framer{in: &in, limit: s.opts.MaxMessage, buf: make([]byte, s.opts.MaxMessage+baseBuffer)}
	in.begin()
	for len(stream) > 0 {
		if r.end == len(r.buf) {
			t.Fatal("the framer wants more memory than it may have")
		}
		n := copy(r.buf[r.end:], stream[:min(len(stream), piece())])
		stream = stream[n:]
		r.end += n
		r.consume()
		r.compact()
	}
	r.finish()
	if r.pending() {
		t.Error("something is pending at the end")
	}
	in.end()
	conserve(t, s)
	return dst.Take(), s
}

// untimed takes the time of arrival out, which differs from run to run.
func untimed(all []taken.Record) []taken.Record {
	for i := range all {
		all[i].Time = ""
	}
	return all
}

// FuzzFrames: however a stream is cut into reads, the same records come of it,
// and of its text nothing is lost but line ends.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("<14>1 - - a - - - one\n22 <14>1 - - a - - - two\r\n\x00three\n12 monkeys\n"), uint64(1))
	f.Add([]byte("<14>1 2026-01-02T03:04:05Z h\xff a\xc3 p m [a b=\"\xff\\\"\"][tags@47450 app_name=\"x\" \xc3=\"\"][e] x\n"), uint64(4))
	f.Add([]byte("9 <14>hello<14>hello\n5 <14>x"), uint64(2))
	f.Add(bytes.Repeat([]byte("éa"), 2000), uint64(3))
	f.Add(append([]byte("3000 <14>"), bytes.Repeat([]byte("éa"), 2000)...), uint64(3))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 1))
		whole, _ := frames(t, minMessage, stream, func() int { return 1 << 20 })
		cut, s := frames(t, minMessage, stream, func() int { return 1 + random.IntN(100) })
		if diff := cmp.Diff(untimed(whole), untimed(cut)); diff != "" {
			t.Fatal(diff)
		}
		if st := s.Stats(); st.RFC5424+st.RFC3164 > 0 {
			return // whose heads are tags now
		}
		var text strings.Builder
		for _, r := range whole {
			text.WriteString(r.Text)
		}
		if got, want := letters(text.String()), letters(string(stream)); !isSubsequence(got, want) || len(want)-len(got) > bytes.Count(stream, []byte(" <"))*(maxDigits+1) {
			t.Fatalf("%d bytes of text came of %d", len(got), len(want))
		}
	})
}

// letters leaves out line ends.
func letters(s string) string { return strings.NewReplacer("\r", "", "\n", "", "\x00", "").Replace(s) }

func isSubsequence(sub, s string) bool {
	i := 0
	for j := 0; j < len(s) && i < len(sub); j++ {
		if s[j] == sub[i] {
			i++
		}
	}
	return i == len(sub)
}

// FuzzOctets: a stream in octet counting that go-syslog reads to its end is read
// as the same messages.
func FuzzOctets(f *testing.F) {
	f.Add([]byte("22 <14>1 - - a - - - two21 <14>1 - - a - - - two"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		var want []string
		bad := false
		octetcounting.NewParser(syslog.WithListener(func(r *syslog.Result) {
			if r.Error != nil || r.Message == nil {
				bad = true
				return
			}
			m := r.Message.(interface{ Valid() bool })
			if !m.Valid() {
				bad = true
			}
			want = append(want, "")
		})).Parse(bytes.NewReader(stream))
		if bad || len(stream) > 8<<10 {
			return
		}
		_, s := frames(t, 64<<10, stream, func() int { return 1 << 20 })
		if st := s.Stats(); st.RFC5424 != uint64(len(want)) && len(want) > 0 {
			t.Fatalf("%d messages, want %d: %+v", st.RFC5424, len(want), st)
		}
	})
}

// benchmarkStream is what a busy connection carries.
func benchmarkStream(octets bool) (stream []byte, messages int) {
	for i := range 500 {
		m := fmt.Sprintf(`<14>1 2026-02-03T04:05:06.%06dZ web-%d shop 17 - [meta@1 k="v"] at=info method=GET path="/orders/%d" host=shop.example.com request_id=8601b555 fwd="204.204.204.204" connect=1ms service=18ms status=200 bytes=13`, i, i%4, i)
		if octets {
			stream = fmt.Appendf(stream, "%d %s", len(m), m)
		} else {
			stream = append(append(stream, m...), '\n')
		}
	}
	return stream, 500
}

func BenchmarkStream(b *testing.B) {
	for name, octets := range map[string]bool{"octets": true, "lines": false} {
		b.Run(name, func(b *testing.B) {
			stream, n := benchmarkStream(octets)
			s := NewServer(discard{}, nil)
			in := newIntake(s, false, "10.0.0.1")
			r := framer{in: &in, limit: s.opts.MaxMessage, buf: make([]byte, len(stream))}
			b.SetBytes(int64(len(stream) / n))
			b.ReportAllocs()
			left := 0
			for b.Loop() {
				if left == 0 { // an operation is a message
					copy(r.buf, stream)
					r.start, r.end = 0, len(stream)
					in.begin()
					r.consume()
					in.end()
					left = n
				}
				left--
			}
			if st := s.Stats(); st.Records != st.RFC5424 {
				b.Fatalf("%+v", st)
			}
		})
	}
}
