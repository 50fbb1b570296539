//go:build unix

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/receiver"
	"github.com/cloudfoundry/loggregator/transport"
)

// A server that keeps its recent logs in a directory is killed again and again
// in the middle of a run: its drain goes on where it was, and every line is
// there, in order.
func TestX03DrainsGoOnWithRecentDir(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "loggregator")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var mu sync.Mutex
	var numbers []int
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rcv, err := receiver.New(ln, &receiver.Options{Report: func(m receiver.Message) {
		var n int
		if c, _ := fmt.Sscanf(m.Line(), "seq=%d", &n); c == 1 {
			mu.Lock()
			numbers = append(numbers, n)
			mu.Unlock()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer rcv.Close()
	drains := filepath.Join(dir, "drains.json")
	if err := os.WriteFile(drains, fmt.Appendf(nil, `{"drains":[{"source_id":"shop","url":"%s"}]}`, rcv.URL()), 0o600); err != nil {
		t.Fatal(err)
	}
	host := "127.0.0.1"
	if runtime.GOOS == "linux" { // where all of 127/8 is here: nobody else takes the port between two lives
		host = fmt.Sprintf("127.%d.%d.%d", 1+rand.N(250), rand.N(250), 1+rand.N(250))
	}
	free, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	ingest := free.Addr().String()
	free.Close()
	start := func() *exec.Cmd {
		cmd := exec.Command(binary, "-ingest", ingest, "-ingest-udp=", "-v1-udp=", "-grpc=", "-egress=", "-http=", "-ops=", "-budget", fmt.Sprint(16<<20), "-recent-dir", filepath.Join(dir, "recent"), "-drains", drains)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
		cmd.Stderr = os.Stderr
		if testing.Verbose() {
			cmd.Stdout = os.Stdout
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}

	router := loggregator.New(nil)
	defer router.Close()
	link, err := transport.NewLink("tcp://"+ingest, router, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	const total = 6000
	fixed := envelope.Identity{SourceID: "shop"}.Encode()
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := range total {
			record := envelope.AppendLog(nil, fixed, time.Now().UnixNano(), envelope.Out, fmt.Appendf(nil, "seq=%d", i))
			if err := router.WriteBatch(context.Background(), envelope.Batch{Records: record, Count: 1}); err != nil {
				t.Error(err)
			}
			time.Sleep(500 * time.Microsecond)
		}
	}()
	for range 3 {
		cmd := start()
		time.Sleep(1200 * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
	}
	cmd := start()
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	<-written
	next := 0
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		mu.Lock()
		next = 0
		for _, n := range numbers {
			if n > next {
				t.Fatalf("line %d where %d should be", n, next)
			}
			next = max(next, n+1)
		}
		received := len(numbers)
		mu.Unlock()
		if next == total {
			t.Logf("%d of %d lines came again", received-total, total)
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d lines of %d", next, total)
		}
	}
}
