package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
)

// memory is a log or an output that keeps what is written, and fails or waits
// when told to.
type memory struct {
	mu     sync.Mutex
	text   bytes.Buffer
	closed bool
	err    error
	gate   chan struct{} // writes wait until it is closed; nil: they don't
}

func (m *memory) Write(b []byte) (int, error) {
	if m.gate != nil {
		<-m.gate
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return 0, m.err
	}
	return m.text.Write(b)
}

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

func (m *memory) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.String()
}

func TestSettle(t *testing.T) {
	const stuck = 10 * time.Minute
	for name, c := range map[string]struct {
		hurry bool
		stuck bool                   // the output takes nothing for a long time
		after func(w *io.PipeWriter) // what happens after the program has ended
		want  time.Duration
		text  string
	}{
		"ends at once":  {after: func(w *io.PipeWriter) { io.WriteString(w, "x"); w.Close() }, want: 0, text: "x"},
		"never ends":    {after: func(*io.PipeWriter) {}, want: silence},
		"last words":    {after: func(w *io.PipeWriter) { time.Sleep(silence - 1); io.WriteString(w, "x") }, want: 2*silence - 1, text: "x"},
		"chatters on":   {after: chatter, want: longest},
		"output stuck":  {stuck: true, after: func(w *io.PipeWriter) { io.WriteString(w, "x"); w.Close() }, want: stuck, text: "x"},
		"stuck, hurry":  {stuck: true, hurry: true, after: func(w *io.PipeWriter) { io.WriteString(w, "x"); w.Close() }, want: longest, text: "x"},
		"silent, hurry": {hurry: true, after: func(*io.PipeWriter) {}, want: silence},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, w := io.Pipe()
				log, out := &memory{}, &memory{}
				start := time.Now().Add(time.Second)
				if c.stuck {
					out.gate = make(chan struct{})
					time.AfterFunc(time.Until(start.Add(stuck)), func() { close(out.gate) })
				}
				p := newPump(r, log, out, func(err error) { t.Error(err) })
				go p.run()
				time.Sleep(time.Until(start)) // the program was silent for long before its end
				var others sync.WaitGroup
				others.Go(func() { c.after(w) })
				p.settle(c.hurry)
				if took := time.Since(start); took < c.want || took > c.want+silence {
					t.Errorf("took %v, want %v", took, c.want)
				}
				if !log.closed || c.text != "" && log.String() != c.text {
					t.Errorf("log %q, closed %v", log.String(), log.closed)
				}
				r.Close()
				others.Wait()
				<-p.done
			})
		})
	}
}

// chatter writes a little now and then, for ever.
func chatter(w *io.PipeWriter) {
	for {
		time.Sleep(silence / 3)
		if _, err := io.WriteString(w, "x"); err != nil {
			return
		}
	}
}

func TestPumpBrokenPipe(t *testing.T) {
	r, w := io.Pipe()
	log := &memory{}
	p := newPump(r, log, &memory{err: fmt.Errorf("write: %w", syscall.EPIPE)}, func(err error) { t.Error(err) })
	go p.run()
	io.WriteString(w, "a\n")
	if _, err := io.WriteString(w, "b\n"); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the program was not told: %v", err)
	}
	<-p.done
	if log.String() != "a\n" {
		t.Errorf("log %q", log.String())
	}
}

func TestPumpOutputFails(t *testing.T) {
	r, w := io.Pipe()
	log := &memory{}
	var said []error
	p := newPump(r, log, &memory{err: syscall.ENOSPC}, func(err error) { said = append(said, err) })
	go p.run()
	for range 3 {
		io.WriteString(w, "a\n")
	}
	w.Close()
	<-p.done
	if log.String() != "a\na\na\n" || len(said) != 1 || !errors.Is(said[0], syscall.ENOSPC) {
		t.Errorf("log %q, said %v", log.String(), said)
	}
}

// BenchmarkPump is the way of a read from the buffer into the ring.
func BenchmarkPump(b *testing.B) {
	for _, size := range []int{20, 100, 1000} {
		b.Run(fmt.Sprintf("line=%d", size), func(b *testing.B) {
			router := loggregator.New(&loggregator.Options{Budget: 64 << 20})
			defer router.Close()
			e := emitter.New(router, envelope.Identity{SourceID: "shop", Tags: map[string]string{"app_name": "shop", "source_type": "APP/PROC/WEB"}}, nil)
			w := e.Writer(envelope.Out)
			text := bytes.Repeat([]byte(strings.Repeat("x", size-1)+"\n"), readSize/size)
			lines := 0
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				w.Write(text)
				lines += len(text) / size
			}
			if st := e.Stats(); st.Accepted != uint64(lines) || e.Flush(context.Background()) != nil {
				b.Errorf("%+v of %d", st, lines)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(lines), "ns/line")
		})
	}
}
