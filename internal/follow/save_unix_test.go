//go:build unix

package follow

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// TestSlowDisk: while positions are being saved, which takes as long as the disk
// does, reading goes on.
func TestSlowDisk(t *testing.T) {
	dir := t.TempDir()
	positions, path := filepath.Join(dir, "positions"), filepath.Join(dir, "app.log")
	stuck := positions + ".new" // the disk is a pipe, which opens when somebody reads it
	if err := syscall.Mkfifo(stuck, 0o600); err != nil {
		t.Skip(err)
	}
	p, err := ParsePattern(path)
	if err != nil {
		t.Fatal(err)
	}
	got := &seen{times: make(map[int]int)}
	f, err := New([]*Group{{
		Paths:  []*Pattern{p},
		Writer: got,
		Identify: func(string, map[string]string) (envelope.Identity, envelope.LogType, error) {
			return envelope.Identity{SourceID: "s"}, envelope.Out, nil
		},
	}}, &Options{Poll: 5 * time.Millisecond, Save: time.Millisecond, Positions: positions})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	log, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	saving := func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.saving
	}
	written := 0
	for deadline := time.Now().Add(30 * time.Second); !saving() || got.count() < written || written < 100; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d lines, %+v", got.count(), written, f.Stats())
		}
		if got.count() == written {
			fmt.Fprintln(log, written)
			written++
		}
		time.Sleep(time.Millisecond)
	}
	if !saving() {
		t.Error("it has been saved")
	}
	cancel()
	disk, err := os.Open(stuck)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(disk)
	disk.Close()
	running.Wait()
	if s := f.Stats(); len(text) == 0 || saving() {
		t.Errorf("%q, %+v", text, s)
	}
}
