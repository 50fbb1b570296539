package drain

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// hosts is a receiver for each address.
type hosts struct {
	mu   sync.Mutex
	list map[string]*receiver
}

func (h *hosts) at(addr string) *receiver {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.list == nil {
		h.list = make(map[string]*receiver)
	}
	if h.list[addr] == nil {
		h.list[addr] = newReceiver()
	}
	return h.list[addr]
}

func (h *hosts) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := h.at(addr).dial(ctx, network, addr)
	if err == errHang {
		<-ctx.Done()
		err = ctx.Err()
	}
	if err == errCloses {
		here, there := net.Pipe()
		go func() {
			readFrame(bufio.NewReader(there))
			there.Close()
		}()
		return here, nil
	}
	return c, err
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// bindings writes a binding file. Its time is the bubble's, not that of the
// file system.
func bindings(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		t.Fatal(err)
	}
}

func TestSetFollowsFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "drains.json")
		bindings(t, path, `{"drains":[{"url":"syslog://a"},{"app":"shop","url":"syslog://b"},
			{"url":"syslog://user:secret@c?drain-data=secret"},{"space":"x","url":"syslog://d"},{"url":"syslog://a"},{"ap":"x","url":"syslog://e"}]}`)
		src, rcv := newMemory(), new(hosts)
		var log lockedBuffer
		s, err := OpenFile(path, src, &Options{DialContext: rcv.dial, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		src.lines(1, 0, 100)
		rcv.at("a:514").await(100)
		rcv.at("b:514").await(100)
		synctest.Wait()
		var states []string
		for _, st := range s.Status() {
			states = append(states, string(st.State)+" "+st.URL)
		}
		want := []string{"connected syslog://a:514", "connected syslog://b:514", "invalid ", "connected syslog://d:514", "invalid syslog://a:514", "invalid "}
		if want[5] = "invalid " + s.Status()[5].URL; fmt.Sprint(states) != fmt.Sprint(want) {
			t.Errorf("%q, want %q", states, want)
		}
		for _, part := range []string{"index=2", "index=4", "index=5"} {
			if strings.Count(log.String(), part) != 1 {
				t.Errorf("%s is not named once in the log", part)
			}
		}

		// A broken and a vanished file change nothing, and are told once each.
		bindings(t, path, `{"drains":[`)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if s.Err() == nil {
			t.Error("broken file is no error")
		}
		os.Remove(path)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		src.lines(1, 100, 200)
		rcv.at("a:514").await(100)
		rcv.at("b:514").await(100)
		if n := strings.Count(log.String(), "not usable; keeping"); n != 2 {
			t.Errorf("told %d times", n)
		}

		// a stays, b moves to e, which continues where b ended, f is new.
		bindings(t, path, `{"drains":[{"url":"syslog://f","org":"acme"},{"app":"shop","url":"syslog://e"},{"url":"syslog://a"}]}`)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if s.Err() != nil {
			t.Error(s.Err())
		}
		src.lines(1, 200, 300)
		rcv.at("f:514").await(300)
		rcv.at("e:514").await(100)
		rcv.at("a:514").await(100)
		synctest.Wait()
		for _, st := range s.Status() {
			if st.Connects != 1 || st.State != Connected {
				t.Errorf("%+v", st)
			}
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		for _, st := range s.Status() {
			want := uint64(300)
			if st.URL == "syslog://e:514" {
				want = 100
			}
			conserve(t, st.Stats, want)
		}
		if n := len(rcv.at("b:514").texts()); n != 200 {
			t.Errorf("b got %d", n)
		}
		if strings.Contains(log.String(), "secret") {
			t.Error("a secret in the log")
		}
	})
}

func TestSetRemovesBrokenDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "drains.json")
		bindings(t, path, `{"drains":[{"url":"syslog://a"}]}`)
		src, rcv := newMemory(), new(hosts)
		rcv.at("a:514").refuse = errors.New("down")
		s, err := OpenFile(path, src, &Options{DialContext: rcv.dial})
		if err != nil {
			t.Fatal(err)
		}
		src.lines(1, 0, 100)
		time.Sleep(time.Minute)
		// The new address takes over all that the old one did not get.
		bindings(t, path, `{"drains":[{"url":"syslog://b"}]}`)
		start := time.Now()
		rcv.at("b:514").await(100)
		if d := time.Since(start); d > flushTime+2*pollInterval {
			t.Errorf("took over after %v", d)
		}
		s.Close()
		s.Close()
	})
}

func TestOpenFileErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drains.json")
	if _, err := OpenFile(path, newMemory(), nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	for _, text := range []string{"", "[]", "{}", `{"drains":{}}`, `{"drains":null}`} {
		bindings(t, path, text)
		if s, err := OpenFile(path, newMemory(), nil); err == nil {
			s.Close()
			t.Errorf("%s is taken", text)
		}
	}
}

func TestBindingReasons(t *testing.T) {
	for entry, reason := range map[string]string{
		`{"url":"syslog://h","from":"yesterday"}`:            `drain: "from" must be oldest, now, or a duration`,
		`{"url":"syslog-tls://h","ca":"x"}`:                  `drain: "ca" holds no certificate in PEM`,
		`{"url":"syslog-tls://h","cert":"x"}`:                `drain: "cert" and "key" go together`,
		`{"url":"syslog-tls://h","cert":"x","key":"secret"}`: `drain: "cert" and "key" are not a certificate and its key in PEM`,
		`{"url":5}`:   `json: cannot unmarshal number into Go struct field Binding.url of type string`,
		`"syslog://"`: `json: cannot unmarshal string into Go value of type drain.Binding`,
		`{}`:          `drain: unusable URL: the scheme must be syslog, syslog-tls, https, https-batch or https-logplex`,
	} {
		var list bindingList
		err := parseBindings([]byte(`{"drains":[`+entry+`]}`), &list)
		if err != nil || len(list.entries) != 1 || list.entries[0].err == nil || list.entries[0].err.Error() != reason {
			t.Errorf("%s: %v %v, want %s", entry, err, list.entries, reason)
		}
	}
}
