package syslogin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/faultnet"
	"github.com/cloudfoundry/loggregator/internal/taken"
)

// serve runs a server on an address of the network, in a bubble.
func serve(t *testing.T, network *faultnet.Network, w envelope.Writer, o *Options) *Server {
	t.Helper()
	ln, err := network.Listen("server:514")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(w, o)
	go func() {
		if err := s.Serve(ln); err != ErrClosed {
			t.Errorf("Serve: %v", err)
		}
	}()
	t.Cleanup(func() {
		s.Close()
		conserve(t, s)
	})
	return s
}

const arrival = "2000-01-01T00:00:00Z" // when a bubble's clock begins

// TestStream: what comes over a stream, however it is cut, becomes the records
// it should.
func TestStream(t *testing.T) {
	octets := func(s string) string { return fmt.Sprintf("%d %s", len(s), s) }
	const from = "dialer-0"
	raw := func(text, tags string) taken.Record {
		return taken.Log(arrival, from, from, "OUT", text, "app_name="+from+tags+" hostname="+from+" source_type=SYSLOG")
	}
	m5424 := `<11>1 2026-01-02T03:04:05.123456789Z web-1 shop 17 ORDER [a b="c\"d"] order 17 refused`
	r5424 := taken.Log("2026-01-02T03:04:05.123456789Z", "shop", "web-1", "ERR", "order 17 refused",
		`a.b=c"d app_name=shop appname=shop facility=user hostname=web-1 msgid=ORDER procid=17 severity=err source_type=SYSLOG`)
	m3164 := `<13>Jan  2 03:04:05 web-2 cron[9]: done`
	r3164 := taken.Log("2000-01-02T03:04:05Z", "cron", "web-2", "OUT", "done",
		`app_name=cron appname=cron facility=user hostname=web-2 procid=9 severity=notice source_type=SYSLOG`)
	cutOff := r3164
	cutOff.Text = "do"
	drained := `<14>1 2026-01-02T03:04:05Z acme.prod.shop 9c6 [APP/PROC/WEB/3] - [tags@47450 app_name="shop" space_name="prod"] hello`
	rDrained := taken.Log("2026-01-02T03:04:05Z", "9c6", "3", "OUT", "hello",
		`app_name=shop appname=9c6 facility=user hostname=acme.prod.shop procid=[APP/PROC/WEB/3] severity=info source_type=APP/PROC/WEB space_name=prod`)
	multi := "<14>1 - - a - - - one\ntwo"
	rMulti := taken.Log(arrival, "a", from, "OUT", "one\ntwo", "app_name=a appname=a facility=user hostname="+from+" severity=info source_type=SYSLOG")
	tests := []struct {
		name, send string
		want       []taken.Record
		unparsed   uint64
		truncated  uint64
	}{
		{"lines", m5424 + "\n" + m3164 + "\n", []taken.Record{r5424, r3164}, 0, 0},
		{"CR LF", m5424 + "\r\n" + m3164 + "\r\n", []taken.Record{r5424, r3164}, 0, 0},
		{"NUL", m5424 + "\x00" + m3164 + "\x00", []taken.Record{r5424, r3164}, 0, 0},
		{"octets", octets(m5424) + octets(m3164), []taken.Record{r5424, r3164}, 0, 0},
		{"octets and line ends", octets(m5424+"\n") + "\n" + octets(m3164) + "\n", []taken.Record{r5424, r3164}, 0, 0},
		{"octets with a line end inside", octets(multi) + octets(m3164), []taken.Record{rMulti, r3164}, 0, 0},
		{"mixed", m5424 + "\n" + octets(m3164) + m5424 + "\n", []taken.Record{r5424, r3164, r5424}, 0, 0},
		{"without an end", m5424 + "\n" + m3164, []taken.Record{r5424, r3164}, 0, 0},
		{"drained", octets(drained), []taken.Record{rDrained}, 0, 0},
		{"text", "hello\n12 monkeys\n\n\n2026 began\n", []taken.Record{raw("hello", ""), raw("12 monkeys", ""), raw("2026 began", "")}, 3, 0},
		{"only a priority", "<11>hello\n", []taken.Record{func() taken.Record {
			r := raw("<11>hello", " facility=user")
			r.Stream, r.Tags = "ERR", strings.Replace(r.Tags, " source", " severity=err source", 1)
			return r
		}()}, 1, 0},
		{"not UTF-8", "\xff\xfe\n", []taken.Record{raw("\xff\xfe", "")}, 1, 0},
		{"octets cut off", strings.TrimSuffix(octets(m3164), "ne"), []taken.Record{cutOff}, 0, 1},
	}
	for _, test := range tests {
		for _, chunk := range []int{0, 1, 7} {
			t.Run(fmt.Sprintf("%s/%d", test.name, chunk), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					network := &faultnet.Network{Plan: func(int) faultnet.Faults {
						return faultnet.Faults{ToServer: faultnet.Way{Chunk: chunk}}
					}}
					dst := taken.New(t)
					s := serve(t, network, dst, &Options{Location: time.UTC})
					c, err := network.DialContext(t.Context(), "", "server:514")
					if err != nil {
						t.Fatal(err)
					}
					io.WriteString(c, test.send)
					c.Close()
					synctest.Wait()
					// Messages of one source keep their order; sources do not mind each other.
					if diff := cmp.Diff(taken.BySource(test.want), taken.BySource(dst.Take())); diff != "" {
						t.Error(diff)
					}
					st := s.Stats()
					if st.Unparsed != test.unparsed || st.Truncated != test.truncated || st.Messages != uint64(len(test.want)) || st.Connections != 0 || len(st.Refused) > 0 {
						t.Errorf("%+v", st)
					}
				})
			})
		}
	}
}

// TestLong: a message of any length comes whole, in parts, and costs no more
// memory than one.
func TestLong(t *testing.T) {
	const limit = 2000
	for _, framing := range []string{"line", "octets", "datagram"} {
		for _, size := range []int{limit - 40, limit, limit + 1, 2 * limit, 2*limit + 1, 10*limit + 7, 1 << 20} {
			t.Run(fmt.Sprintf("%s/%d", framing, size), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					text := strings.Repeat("aé日😀", size/10+1)[:size]
					text = strings.ToValidUTF8(text, "")
					message := "<11>1 2026-01-02T03:04:05Z h shop - - - " + text
					network, dst := &faultnet.Network{}, taken.New(t)
					s := serve(t, network, dst, &Options{MaxMessage: limit})
					switch framing {
					case "datagram":
						in := newIntake(s, false, "")
						in.begin()
						in.message([]byte(message))
						in.end()
					default:
						c, _ := network.DialContext(t.Context(), "", "server:514")
						if framing == "line" {
							io.WriteString(c, message+"\nnext\n")
						} else {
							fmt.Fprintf(c, "%d %snext\n", len(message), message)
						}
						synctest.Wait()
						if n := s.buffered.Load(); n > limit+baseBuffer {
							t.Errorf("%d bytes buffered", n)
						}
						c.Close()
						synctest.Wait()
					}
					var whole strings.Builder
					records := taken.BySource(dst.Take())["shop"]
					for i, r := range records {
						whole.WriteString(r.Text)
						if want := time.Date(2026, 1, 2, 3, 4, 5, i, time.UTC).Format(time.RFC3339Nano); r.Time != want || r.Stream != "ERR" {
							t.Fatalf("part %d: %s, want %s, %s", i, r.Time, want, r.Stream)
						}
						part := fmt.Sprintf("part=%d", i+1)
						if len(records) > 1 && i == len(records)-1 {
							part += fmt.Sprintf("/%d", i+1)
						}
						if len(records) > 1 && !strings.Contains(r.Tags+" ", part+" ") || len(records) == 1 && strings.Contains(r.Tags, "part=") {
							t.Fatalf("part %d of %d: %s", i, len(records), r.Tags)
						}
						if len(r.Text) > limit || !strings.Contains(r.Tags, "severity=err") {
							t.Fatalf("part %d: %d bytes, %s", i, len(r.Text), r.Tags)
						}
					}
					if whole.String() != text {
						t.Errorf("%d bytes came of %d", whole.Len(), len(text))
					}
					if st := s.Stats(); (st.Split == 1) != (len(message) > limit) || st.Parts != uint64(len(records)-1) {
						t.Errorf("%+v", st)
					}
				})
			})
		}
	}
}

// TestRubbish sends what does not belong there, next to a good connection. Only
// the bad one is closed, its memory is bounded, and the reason is counted and
// named once.
func TestRubbish(t *testing.T) {
	tests := []struct {
		name   string
		send   []byte
		hangUp bool // close after sending; else the sender waits
		after  time.Duration
		reason string // empty: it is taken as text
		says   string
	}{
		{name: "TLS hello", send: []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), reason: "tls", says: "looks like a TLS hello"},
		{name: "HTTP", send: []byte("GET / HTTP/1.1\r\nHost: server\r\n\r\n"), reason: "http", says: "looks like HTTP"},
		{name: "gRPC", send: []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), reason: "http", says: "looks like HTTP"},
		{name: "HTTP proxy", send: []byte("CONNECT example.com:443 HTTP/1.1\r\n\r\n"), reason: "http", says: "looks like HTTP"},
		{name: "a line about HTTP", send: []byte("GET / HTTP/1.1 200 12ms\nI said GET / HTTP/1.1\n"), hangUp: true},
		{name: "stalled line", send: []byte("<14>hello"), after: 30 * time.Second, reason: "stalled", says: "not complete after 30s"},
		{name: "stalled octets", send: []byte("999 <14>hello"), after: 30 * time.Second, reason: "stalled"},
		{name: "stalled number", send: []byte("12"), after: 30 * time.Second, reason: "stalled"},
		{name: "2 GiB announced", send: append([]byte("2147483648 <14>1 "), bytes.Repeat([]byte("a"), 1<<20)...), hangUp: true},
		{name: "999 MB announced", send: append([]byte("999999999 <14>1 "), bytes.Repeat([]byte("a"), 1<<20)...), hangUp: true},
		{name: "999 MB announced, stalled", send: append([]byte("999999999 <14>1 "), bytes.Repeat([]byte("a"), 1<<20)...), after: 30 * time.Second, reason: "stalled"},
		{name: "endless line", send: bytes.Repeat([]byte("a"), 20<<20), hangUp: true},
		{name: "random bytes", send: random(1 << 20), hangUp: true},
		{name: "only line ends", send: bytes.Repeat([]byte("\r\n"), 1<<20), hangUp: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log lines
				network, dst := &faultnet.Network{}, taken.New(t)
				s := serve(t, network, dst, &Options{Logger: slog.New(&log)})
				good, _ := network.DialContext(t.Context(), "", "server:514")
				io.WriteString(good, "<14>1 - - good - - - one\n")
				for range 2 {
					start := time.Now()
					bad, err := network.DialContext(t.Context(), "", "server:514")
					if err != nil {
						t.Fatal(err)
					}
					go func() {
						bad.Write(test.send)
						if test.hangUp {
							bad.(*faultnet.Conn).CloseWrite()
						}
					}()
					io.Copy(io.Discard, bad)
					if d := time.Since(start); d != test.after {
						t.Errorf("closed after %v", d)
					}
					bad.Close()
				}
				io.WriteString(good, "<14>1 - - good - - - two\n")
				synctest.Wait()
				if got := taken.BySource(dst.Take())["good"]; len(got) != 2 || got[1].Text != "two" {
					t.Errorf("the good connection suffered: %v", got)
				}
				st := s.Stats()
				if test.reason == "" && len(st.Refused) != 0 || test.reason != "" && (st.Refused[test.reason] != 2 || len(st.Refused) != 1) {
					t.Errorf("refused %v", st.Refused)
				}
				if st.Connections != 1 || s.buffered.Load() != 0 {
					t.Errorf("%d connections, %d bytes", st.Connections, s.buffered.Load())
				}
				if test.reason != "" && (len(log.all) != 1 || !strings.Contains(log.all[0], test.says) || !strings.Contains(log.all[0], "remote=dialer-1")) {
					t.Errorf("log %q", log.all)
				}
				good.Close()
			})
		})
	}
}

func random(n int) []byte {
	c := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	c.Read(b)
	return b
}

// TestTimes: a message must end in time, however its bytes drip in; one that has
// ended leaves its connection as much silence as it likes; and a busy connection,
// in which a message is always under way, is not a slow one.
func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, dst := &faultnet.Network{}, taken.New(t)
		s := serve(t, network, dst, nil)
		slow, _ := network.DialContext(t.Context(), "", "server:514")
		idle, _ := network.DialContext(t.Context(), "", "server:514")
		busy, _ := network.DialContext(t.Context(), "", "server:514")
		io.WriteString(idle, "<14>1 - - idle - - - be")
		time.Sleep(20 * time.Second)
		io.WriteString(idle, "gun\n")
		for range 50 {
			io.WriteString(busy, "<14>1 - - busy - - - one\n<14>1 - - bu")
			time.Sleep(time.Second)
			io.WriteString(busy, "sy - - - two\n")
		}
		time.Sleep(time.Hour)
		io.WriteString(idle, "<14>1 - - idle - - - again\n")
		start := time.Now()
		var drip sync.WaitGroup
		drip.Go(func() {
			for {
				if _, err := io.WriteString(slow, "x"); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		slow.Read(make([]byte, 1))
		if d := time.Since(start); d != 30*time.Second {
			t.Errorf("the slow one was closed after %v", d)
		}
		slow.Close()
		drip.Wait()
		if st := s.Stats(); st.Connections != 2 || st.Refused["stalled"] != 1 || len(st.Refused) != 1 || st.RFC5424 != 2+100 {
			t.Errorf("%+v", st)
		}
		idle.Close()
		busy.Close()
	})
}

// TestShutdownBusy: a sender that never stops does not keep a server from
// stopping.
func TestShutdownBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, dst := &faultnet.Network{}, taken.New(t)
		s := serve(t, network, dst, nil)
		c, _ := network.DialContext(t.Context(), "", "server:514")
		var sender sync.WaitGroup
		sender.Go(func() {
			for {
				if _, err := io.WriteString(c, "one\ntw"); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
				if _, err := io.WriteString(c, "o\n"); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
		time.Sleep(time.Second)
		start := time.Now()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d != 200*time.Millisecond {
			t.Errorf("took %v", d)
		}
		c.Close()
		sender.Wait()
	})
}

// TestLocal: programs of this machine name no host.
func TestLocal(t *testing.T) {
	for local, want := range map[bool]string{true: "hello world", false: "world"} {
		dst := taken.New(t)
		in := newIntake(NewServer(dst, nil), local, "")
		in.begin()
		in.message([]byte("<13>Nov 23 07:45:00 hello world"))
		in.end()
		if got := dst.Take(); got[0].Text != want {
			t.Errorf("local %v: %+v", local, got)
		}
	}
}

// TestLost: what the system had no room for is told to whoever reads the end.
func TestLost(t *testing.T) {
	dst := taken.New(t)
	s := NewServer(dst, nil)
	d := &datagrams{s: s, in: newIntake(s, false, "")}
	d.Lost(3)
	if dst.Missed() != 3 || s.Stats().Dropped != 3 {
		t.Errorf("told of %d, %+v", dst.Missed(), s.Stats())
	}
}

// TestFaults: connections that split, stall and are reset in the middle lose what
// was on its way, no more: what arrived is whole and in order, and accounted for.
func TestFaults(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			network := &faultnet.Network{Plan: func(int) faultnet.Faults { return faultnet.Random(random, 20<<10) }}
			dst := taken.New(t)
			s := serve(t, network, dst, &Options{MaxMessage: 1 << 10})
			const conns, each = 10, 300
			var senders sync.WaitGroup
			for n := range conns {
				c, err := network.DialContext(t.Context(), "", "server:514")
				if err != nil {
					t.Fatal(err)
				}
				senders.Go(func() {
					defer c.Close()
					for i := range each {
						m := fmt.Sprintf("<14>1 - - c%d - - - %d", n, i)
						if i%2 == 0 {
							m = fmt.Sprintf("%d %s", len(m), m)
						} else {
							m += "\n"
						}
						if _, err := io.WriteString(c, m); err != nil {
							return
						}
					}
				})
			}
			senders.Wait()
			time.Sleep(time.Minute) // stalls end
			for source, records := range taken.BySource(dst.Take()) {
				if !strings.HasPrefix(source, "c") {
					continue // the beginning of a message that was cut off
				}
				for i, r := range records {
					// The last one may be cut off.
					if want := strconv.Itoa(i); r.Text != want && (i < len(records)-1 || !strings.HasPrefix(want, r.Text)) {
						t.Fatalf("seed %d, %s: record %d is %q", seed, source, i, r.Text)
					}
				}
			}
			s.Close()
		})
	}
}

// TestLimits: connections and memory that are too many are refused; those that
// are there go on.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, dst := &faultnet.Network{}, taken.New(t)
		s := serve(t, network, dst, &Options{MaxConns: 2, MaxBuffered: 20 << 10})
		a, _ := network.DialContext(t.Context(), "", "server:514")
		b, _ := network.DialContext(t.Context(), "", "server:514")
		synctest.Wait()
		c, _ := network.DialContext(t.Context(), "", "server:514")
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a third connection is read from")
		}
		a.Write(bytes.Repeat([]byte("a"), 15<<10)) // 16 KiB of buffer
		synctest.Wait()
		b.Write(bytes.Repeat([]byte("b"), 15<<10))
		if _, err := b.Read(make([]byte, 1)); err == nil {
			t.Error("a second large buffer")
		}
		a.Write([]byte("\n"))
		a.Close()
		synctest.Wait()
		if st := s.Stats(); st.Refused["full"] != 1 || st.Refused["memory"] != 1 || len(st.Refused) != 2 {
			t.Errorf("refused %v", st.Refused)
		}
		found := false
		for _, r := range dst.Take() {
			found = found || r.Text == strings.Repeat("a", 15<<10)
		}
		if !found {
			t.Error("the first connection's line is missing")
		}
	})
}

// TestIdentify: the rule is asked once per origin; what it leaves out is counted.
func TestIdentify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		network, dst := &faultnet.Network{}, taken.New(t)
		s := serve(t, network, dst, &Options{MaxMessage: 1 << 10, Identify: func(o Origin) (envelope.Identity, bool) {
			asked++
			if o.AppName == "noise" {
				return envelope.Identity{}, false
			}
			return envelope.Identity{SourceID: "id-" + o.AppName, Tags: map[string]string{"space_name": "prod", "app_name": o.AppName}}, o.AppName != ""
		}})
		c, _ := network.DialContext(t.Context(), "", "server:514")
		for range 10 {
			io.WriteString(c, "<14>1 - h shop - - [tags@47450 app_name=\"x\" space_name=\"x\"] hello\n<14>1 - h noise - - - hello\n")
		}
		io.WriteString(c, "<14>1 - h noise - - - "+strings.Repeat("x", 5000)+"\n")
		c.Close()
		synctest.Wait()
		got := dst.Take()
		if len(got) != 10 || got[0].Source != "id-shop" || !strings.Contains(got[0].Tags, "space_name=prod") || !strings.Contains(got[0].Tags, "app_name=shop") {
			t.Errorf("%d records: %v", len(got), got)
		}
		if st := s.Stats(); asked != 2 || st.Filtered != 10+5 || st.Split != 1 {
			t.Errorf("asked %d times, %+v", asked, st)
		}
	})
}

// TestWriterFails: what a Writer does not take is counted, and the connection
// closed, so that its sender knows.
func TestWriterFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, dst := &faultnet.Network{}, taken.New(t)
		s := serve(t, network, dst, nil)
		dst.Refuse(errors.New("full"))
		c, _ := network.DialContext(t.Context(), "", "server:514")
		io.WriteString(c, "one\ntwo\n")
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("still open")
		}
		synctest.Wait()
		if st := s.Stats(); st.Lost != 2 || st.Records != 0 || st.Refused["writer"] != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// TestShutdown: what was sent before is taken, half a message too, and nothing
// stays behind.
func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, dst := &faultnet.Network{}, taken.New(t)
		s := serve(t, network, dst, nil)
		c, _ := network.DialContext(t.Context(), "", "server:514")
		idle, _ := network.DialContext(t.Context(), "", "server:514")
		io.WriteString(c, "one\ntwo\nthr")
		synctest.Wait()
		start := time.Now()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d != 200*time.Millisecond {
			t.Errorf("took %v", d)
		}
		if got := dst.Take(); len(got) != 3 || got[2].Text != "thr" {
			t.Errorf("%v", got)
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		ln, _ := network.Listen("other:514")
		if err := s.Serve(ln); err != ErrClosed {
			t.Errorf("Serve after Shutdown: %v", err)
		}
		if st := s.Stats(); len(st.Refused) != 0 || st.Connections != 0 {
			t.Errorf("%+v", st)
		}
		c.Close()
		idle.Close()
	})
}

// TestShutdownCut: a Writer that hangs is let go when the caller's time is over.
func TestShutdownCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{}
		s := serve(t, network, envelope.WriterFunc(func(ctx context.Context, _ envelope.Batch) error {
			<-ctx.Done()
			return ctx.Err()
		}), nil)
		c, _ := network.DialContext(t.Context(), "", "server:514")
		io.WriteString(c, "one\n")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != context.DeadlineExceeded {
			t.Error(err)
		}
		if st := s.Stats(); st.Lost != 1 {
			t.Errorf("%+v", st)
		}
		c.Close()
	})
}
