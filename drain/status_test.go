package drain_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/drain"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/receiver"
)

// await waits until the status of the drains is as it should be.
func await(t *testing.T, set *drain.Set, what string, ok func([]drain.Status) bool) []drain.Status {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		list := set.Status()
		if ok(list) {
			return list
		}
		if time.Now().After(deadline) {
			text, _ := json.MarshalIndent(list, "", " ")
			t.Fatalf("not %s: %s", what, text)
		}
	}
}

// Two applications with one URL have numbers of their own; how far a drain is
// behind is a number of records while its receiver is away, and none when it is
// back; no part of a URL that may be secret is in the status.
func TestR05R06StatusOfDrains(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rcv, err := receiver.New(ln, &receiver.Options{Fault: receiver.Fault{Refuse: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer rcv.Close()
	router := loggregator.New(nil)
	defer router.Close()
	path := filepath.Join(t.TempDir(), "drains.json")
	text := fmt.Sprintf(`{"drains":[{"source_id":"one","url":"syslog://user:secret@%s/secret?x=secret"},{"source_id":"two","url":"syslog://user:secret@%[1]s/secret?x=secret"},{"url":"syslog://%[1]s?drain-data=metrics"}]}`, rcv.Addr())
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := drain.OpenSet(router, &drain.SetOptions{Drains: &drain.Options{Backoff: func(int) time.Duration { return 10 * time.Millisecond }}}, drain.File(path))
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	log := func(app string, n int) {
		fixed := envelope.Identity{SourceID: app}.Encode()
		var records []byte
		for range n {
			records = envelope.AppendLog(records, fixed, time.Now().UnixNano(), envelope.Out, []byte("hello"))
		}
		if err := router.WriteBatch(context.Background(), envelope.Batch{Records: records, Count: n}); err != nil {
			t.Fatal(err)
		}
	}
	log("one", 100)
	log("two", 7)
	list := await(t, set, "behind", func(list []drain.Status) bool {
		return *list[0].Behind == 100 && *list[1].Behind == 7 && list[2].Filtered == 107 && list[0].Failures > 0 && list[1].Failures > 0
	})
	if list[0].Cause != drain.CauseConnect || list[0].Delivered != 0 || !list[0].LastSent.IsZero() {
		t.Errorf("%+v", list[0])
	}
	if *list[2].Behind != 0 {
		t.Errorf("what the drain does not want counts: %d", *list[2].Behind)
	}
	if err := rcv.Misbehave(receiver.Fault{}); err != nil {
		t.Fatal(err)
	}
	list = await(t, set, "caught up", func(list []drain.Status) bool { return *list[0].Behind == 0 && *list[1].Behind == 0 })
	if list[0].Delivered != 100 || list[1].Delivered != 7 || list[0].LastSent.IsZero() || list[0].LastError != "" {
		t.Errorf("%+v", list)
	}
	shown, err := json.Marshal(list)
	if err != nil || strings.Contains(string(shown), "secret") {
		t.Errorf("%v %s", err, shown)
	}
	await(t, set, "received", func([]drain.Status) bool { return rcv.Stats().Messages == 107 })
	if s := rcv.Stats(); s.Problems != 0 {
		t.Errorf("%+v", s)
	}
}
