package drain

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// What was accepted before the unbinding arrives, and nothing after; then the
// connection is closed.
func TestB02UnbindUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "drains.json")
		bindings(t, path, `{"drains":[{"app":"shop","url":"syslog://a"},{"app":"other","url":"syslog://b"}]}`)
		src, rcv := newMemory(), new(hosts)
		s := openSet(t, src, rcv, nil, File(path))
		d := s.groups[0].drains[0].drain
		stop := make(chan struct{})
		var written atomic.Int64
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					n := int(written.Load())
					src.lines(1, n, n+10)
					written.Add(10)
				}
			}
		}()
		time.Sleep(time.Second)
		bindings(t, path, `{"drains":[{"app":"other","url":"syslog://b"}]}`)
		before := int(written.Load())
		time.Sleep(3 * time.Second)
		synctest.Wait()
		close(stop)
		<-done
		list := rcv.at("a:514").texts()
		st := d.Stats()
		if st.State != Closed || st.Pending != 0 || int(st.Delivered) != len(list) || len(list) < before || len(list) == int(written.Load()) {
			t.Errorf("%d lines of %d before and %d in all: %+v", len(list), before, written.Load(), st)
		}
		for i, line := range list {
			if line != fmt.Sprintf("ring=1 seq=%d", i) {
				t.Fatalf("line %d is %s", i, line)
			}
		}
		conserve(t, st, uint64(len(list)))
		if n := len(s.Status()); n != 1 {
			t.Errorf("%d drains are left", n)
		}
	})
}

// The same drain twice for one application is one.
func TestB07BoundTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := urlEntry("syslog://a", "app")
		c := &cloud{answer: answered(200, `{"results":[`+one+`,`+one+`,`+urlEntry("syslog://a", "app", "app")+`]}`)}
		src, rcv := newMemory(), new(hosts)
		s := openSet(t, src, rcv, nil, c.capi(t))
		synctest.Wait()
		src.lines(1, 0, 10)
		rcv.at("a:514").await(10)
		if n := len(rcv.at("a:514").texts()); n != 10 || len(s.Status()) != 1 {
			t.Errorf("%d lines, %+v", n, s.Status())
		}
	})
}

// A drain of everything keeps its connection however often the cache is asked.
func TestB11AggregateDrainIsNotRebuilt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{aggregate: []string{"syslog://all?drain-data=all"}}
		p, err := BindingCache("https://cache", &AskOptions{HTTP: &http.Client{Transport: c}, Interval: interval})
		if err != nil {
			t.Fatal(err)
		}
		src, rcv := newMemory(), new(hosts)
		s := openSet(t, src, rcv, &SetOptions{NoTest: true, Drains: &Options{MaxAge: -1}}, p)
		synctest.Wait()
		for i := range 100 {
			src.lines(1, i, i+1)
			polls(1)
		}
		list := rcv.at("all:514").texts()
		for i, line := range list {
			if line != fmt.Sprintf("ring=1 seq=%d", i) {
				t.Fatalf("line %d is %s", i, line)
			}
		}
		if st := s.Status(); len(list) != 100 || len(st) != 1 || st[0].Connects != 1 || c.asked < 100 {
			t.Errorf("%d lines, %d answers, %+v", len(list), c.asked, st)
		}
	})
}

// A receiver that hangs does not hold up the end; what it did not get is sent
// after the next start, in order.
func TestX02EndWhileTheReceiverHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path, file := filepath.Join(dir, "positions.json"), filepath.Join(dir, "drains.json")
		bindings(t, file, `{"drains":[{"app":"shop","url":"syslog://a"}]}`)
		src, rcv := newMemory(), new(hosts)
		o := &SetOptions{Positions: path, NoTest: true}
		s := openSet(t, src, rcv, o, File(file))
		src.lines(1, 0, 100)
		rcv.at("a:514").await(100)
		time.Sleep(2 * readTime)
		rcv.at("a:514").set(errHang)
		rcv.at("a:514").conns[0].Close()
		src.lines(1, 100, 50_000)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begin := time.Now()
		err := s.Shutdown(ctx)
		left, ok := errors.AsType[*UndeliveredError](err)
		if !ok || left.Records != 49_900 || time.Since(begin) > 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		rcv.at("a:514").set(nil)
		s = openSet(t, src, rcv, o, File(file))
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		list := rcv.at("a:514").texts()
		for i, line := range list {
			if line != fmt.Sprintf("ring=1 seq=%d", i) {
				t.Fatalf("line %d is %s", i, line)
			}
		}
		if len(list) != 50_000 {
			t.Errorf("%d lines", len(list))
		}
	})
}
