package syslogmsg

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cloudfoundry/loggregator/envelope"
)

func tagsOf(t *testing.T, f envelope.Fixed) map[string]string {
	t.Helper()
	record := envelope.AppendLog(nil, f, 1, envelope.Out, []byte("x"))
	e, _, err := envelope.Next(record)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Check(nil); err != nil {
		t.Fatal(err)
	}
	m := make(map[string]string)
	for k, v := range e.Tags() {
		m[string(k)] = string(v)
	}
	return m
}

// TestCompose: defaults yield to what a message says, an identity's tags do not,
// and what is said is bounded.
func TestCompose(t *testing.T) {
	id := NewIdentity(envelope.Identity{SourceID: "s", InstanceID: "1", Tags: map[string]string{"space_name": "rule", "a.b": "rule"}},
		map[string]string{"app_name": "default", "hostname": "h"})
	var c Composer
	compose := func(line string) map[string]string {
		t.Helper()
		var m Message
		if !m.Parse5424([]byte(line), RFC5424) {
			t.Fatalf("not parsed: %.100q", line)
		}
		return tagsOf(t, c.Compose(id, &m))
	}
	got := compose(`<11>1 - h app 12 ID [a b="message"][tags@47450 app_name="shop" space_name="message"][e] x`)
	for k, want := range map[string]string{
		"severity": "err", "facility": "user", "procid": "12", "msgid": "ID", "hostname": "h",
		"app_name": "shop", "space_name": "rule", "a.b": "rule", "e": "",
	} {
		if v, ok := got[k]; !ok || v != want {
			t.Errorf("%s = %q, want %q", k, v, want)
		}
	}
	if c.Bounded != 0 {
		t.Error("nothing was cut")
	}
	got = compose(`<14>1 - h app - - - x`)
	if got["severity"] != "info" || got["app_name"] != "default" || len(got) != 6 {
		t.Errorf("the next: %v", got)
	}

	many := `<11>1 - h app ` + strings.Repeat("p", 9000) + ` ID [a`
	for i := range 40 {
		many += fmt.Sprintf(` n%d="%s"`, i, strings.Repeat(`\\`, 3000))
	}
	for range 2 {
		got = compose(many + "] x")
	}
	if len(got["a.n0"]) != MaxValue || len(got["procid"]) != MaxField || got["a.n31"] == "" || got["a.n32"] != "" || c.Bounded != 2 {
		t.Errorf("%d bytes of a value, %d of an id, %d bounded", len(got["a.n0"]), len(got["procid"]), c.Bounded)
	}
	for i := range c.recent {
		if r := &c.recent[i]; cap(r.structured)+cap(r.procID)+cap(r.msgID)+cap(r.fixed) > 4*small {
			t.Errorf("holds on to %d bytes", cap(r.structured)+cap(r.fixed))
		}
	}
	if NewIdentity(envelope.Identity{}, nil) != nil {
		t.Error("an identity without a source id")
	}
	if s := NewIdentity(envelope.Identity{SourceID: "a\nb" + strings.Repeat("é", 200)}, nil).Source; len(s) > envelope.MaxSourceID || !strings.HasPrefix(s, "a_b") {
		t.Errorf("source id %q", s)
	}
}

// TestComposeAgain: what is remembered is not taken for what differs from it.
func TestComposeAgain(t *testing.T) {
	ids := make([]*Identity, 2*slots)
	for i := range ids {
		ids[i] = NewIdentity(envelope.Identity{SourceID: fmt.Sprint("s", i)}, nil)
	}
	lines := []string{
		`<11>1 - h app 12 ID [a b="c"] x`, `<12>1 - h app 12 ID [a b="c"] x`, `<19>1 - h app 12 ID [a b="c"] x`, `<11>1 - h app 13 ID [a b="c"] x`,
		`<11>1 - h app 12 JD [a b="c"] x`, `<11>1 - h app 12 ID [a b="d"] x`, `<11>1 - h app 12 ID - x`, `<11>1 - h app 12 - - x`, `<11>1 - h app - - - x`, `<0>1 - h app - - - x`, `none`,
	}
	var c Composer
	for _, first := range lines {
		for _, second := range lines {
			for _, id := range ids {
				for _, line := range []string{first, first, second} {
					var m Message
					if !m.Parse5424([]byte(line), RFC5424) {
						m = Message{}
					}
					var fresh Composer
					if got, want := string(c.Compose(id, &m)), string(fresh.Compose(id, &m)); got != want {
						t.Fatalf("%s after %s: %q, want %q", line, first, got, want)
					}
				}
			}
		}
	}
}

func TestComposeAllocs(t *testing.T) {
	id := NewIdentity(envelope.Identity{SourceID: "s"}, nil)
	lines := [][]byte{[]byte(`<11>1 - h app 12 ID [a b="\"c"] x`), []byte(`<14>1 - h app 13 ID [a b="d"] x`)}
	var m Message
	var c Composer
	if n := testing.AllocsPerRun(100, func() {
		for _, line := range lines {
			m.Parse5424(line, RFC5424)
			c.Compose(id, &m)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
