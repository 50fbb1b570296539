package drain

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A new binding is tested within five seconds, and its application told.
func TestB01NewBindingIsTested(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		urls := map[string][]string{"syslog://good": {"app-0"}}
		c := &cloud{urls: urls}
		src, rcv, told := newMemory(), new(hosts), new(toldApps)
		s := openSet(t, src, rcv, &SetOptions{Drains: &Options{Tell: told}}, c.capi(t))
		polls(1)
		if st := s.Status()[0]; st.Test != nil || len(told.of("app-0")) != 0 {
			t.Errorf("what was there from the start is tested: %+v", st.Test)
		}
		rcv.at("refuses:514").set(errors.New("connection refused"))
		rcv.at("hangs:514").set(errHang)
		rcv.at("closes:514").set(errCloses)
		c.mu.Lock()
		urls["syslog://works"] = []string{"app-1"}
		urls["syslog://refuses"] = []string{"app-2"}
		urls["syslog://closes"] = []string{"app-7"}
		urls["syslog://hangs?x=secret"] = []string{"app-3"}
		urls["syslog://metrics?drain-data=metrics"] = []string{"app-4"}
		urls["syslog://routers?include-log-source-types=RTR"] = []string{"app-5"}
		urls["syslog://nobody?include-log-source-types=RTR&exclude-log-source-types=RTR"] = []string{"app-6"}
		c.mu.Unlock()
		c.once()
		time.Sleep(testTime + time.Second)
		synctest.Wait()
		verdicts := map[string]string{}
		for _, st := range s.Status() {
			if st.Test != nil {
				verdicts[st.SourceID] = fmt.Sprint(st.Test.OK, " ", st.Test.Cause, " ", st.Test.Text)
			}
		}
		for app, want := range map[string]string{
			"app-1": "true  it took a test line after",
			"app-2": "false connect connection refused",
			"app-3": "false timeout no answer within 5s",
			"app-7": "false closed the receiver closed the connection with the test line: perhaps it expects TLS",
			"app-4": "true  it took a test line after",
			"app-5": "true  it took a test line after",
		} {
			if !strings.HasPrefix(verdicts[app], want) {
				t.Errorf("%s: %q, want %q", app, verdicts[app], want)
			}
			lines := strings.Join(told.of(app), "\n")
			if ok := strings.Contains(lines, " works: it took a test line"); ok != strings.HasPrefix(want, "true") {
				t.Errorf("%s was told %q", app, lines)
			}
			if strings.Contains(lines, "secret") {
				t.Errorf("%s was told a secret: %q", app, lines)
			}
		}
		if lines := told.of("app-6"); len(lines) != 1 || !strings.Contains(lines[0], "cannot be used: ") {
			t.Errorf("app-6 was told %q", lines)
		}
		if list := rcv.at("works:514").messages; len(list) != 1 || !strings.Contains(list[0], testText) || !strings.Contains(list[0], "[LGR/0]") {
			t.Errorf("works got %q", list)
		}
		if list := rcv.at("metrics:514").messages; len(list) != 1 || !strings.Contains(list[0], "counter@47450") {
			t.Errorf("metrics got %q", list)
		}
		if list := rcv.at("good:514").texts(); len(list) != 0 {
			t.Errorf("good got %q", list)
		}
		rcv.at("hangs:514").set(errors.New("enough"))
	})
}

// With a positions file it is known what is new at the start, too.
func TestB01TestedOnceOverRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path, file := filepath.Join(dir, "positions.json"), filepath.Join(dir, "drains.json")
		bindings(t, file, `{"drains":[{"app":"shop","url":"syslog://a"}]}`)
		rcv := new(hosts)
		for life := range 3 {
			if life == 2 {
				bindings(t, file, `{"drains":[{"app":"shop","url":"syslog://b"}]}`)
			}
			s := openSet(t, newMemory(), rcv, &SetOptions{Positions: path}, File(file))
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if tested := s.Status()[0].Test != nil; tested != (life != 1) {
				t.Errorf("life %d: tested %t", life, tested)
			}
			s.Close()
		}
		for _, host := range []string{"a:514", "b:514"} {
			if n := len(rcv.at(host).texts()); n != 1 {
				t.Errorf("%s got %d test lines", host, n)
			}
		}
	})
}

// Many tests at once are done one after the other, and Close does not wait.
func TestManyTestsAndClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		urls := map[string][]string{}
		rcv := new(hosts)
		for i := range 500 {
			urls[fmt.Sprintf("syslog://h%d", i)] = []string{fmt.Sprint("app-", i)}
			rcv.at(fmt.Sprintf("h%d:514", i)).set(errHang)
		}
		c := &cloud{}
		s := openSet(t, newMemory(), rcv, &SetOptions{}, c.capi(t))
		polls(1)
		c.set(urls, nil)
		c.once()
		time.Sleep(2*testTime + time.Second)
		synctest.Wait()
		done := 0
		for _, st := range s.Status() {
			if st.Test != nil {
				done++
			}
		}
		if done != 2*maxTests {
			t.Errorf("%d tests are done", done)
		}
		before := time.Now()
		s.Close()
		if d := time.Since(before); d > time.Second {
			t.Errorf("closed after %v", d)
		}
	})
}

// A removed drain whose receiver is away ends at once; what it leaves is told.
func TestB03UnbindWhileBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "drains.json")
		bindings(t, path, `{"drains":[{"app":"shop","url":"syslog://a"}]}`)
		src, rcv := newMemory(), new(hosts)
		rcv.at("a:514").set(errors.New("down"))
		s := openSet(t, src, rcv, nil, File(path))
		src.lines(1, 0, 10)
		time.Sleep(time.Minute)
		d := s.groups[0].drains[0].drain
		bindings(t, path, `{"drains":[]}`)
		time.Sleep(pollInterval + leaveTime + 100*time.Millisecond)
		synctest.Wait()
		if st := d.Stats(); st.State != Closed {
			t.Errorf("%+v", st)
		}
	})
}

// errHang makes a receiver's connections hang, see hosts.
var errHang = errors.New("hang")

// errCloses makes a receiver close after each message, see hosts.
var errCloses = errors.New("closes")
