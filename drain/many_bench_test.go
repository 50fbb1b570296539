package drain_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/drain"
	"github.com/cloudfoundry/loggregator/envelope"
)

// BenchmarkBesideBadDrains sends a line through each of 300 drains over loopback
// at a time, and reports how long they took to the receivers that work: alone,
// and beside one drain that hangs, one that crawls and one that flaps.
func BenchmarkBesideBadDrains(b *testing.B) {
	for _, bad := range []int{0, 3} {
		b.Run(fmt.Sprintf("bad=%d", bad), func(b *testing.B) { besideBad(b, 300, bad) })
	}
}

func besideBad(b *testing.B, n, bad int) {
	listen := func(serve func(net.Conn)) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		var serving sync.WaitGroup
		var mu sync.Mutex
		var conns []net.Conn
		serving.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				mu.Lock()
				conns = append(conns, c)
				mu.Unlock()
				serving.Go(func() { serve(c) })
			}
		})
		b.Cleanup(func() {
			ln.Close()
			mu.Lock()
			for _, c := range conns {
				c.Close()
			}
			mu.Unlock()
			serving.Wait()
		})
		return ln.Addr().String()
	}
	var mu sync.Mutex
	var delays []time.Duration
	arrived := make(chan struct{}, n)
	good := listen(func(c net.Conn) {
		defer c.Close()
		buf := make([]byte, 64<<10)
		for {
			k, err := c.Read(buf)
			if err != nil {
				return
			}
			now := time.Now()
			for line := range bytes.Lines(buf[:k]) { // one line at a time is on its way
				_, text, ok := strings.Cut(string(line), "sent=")
				var sent int64
				if fmt.Sscanf(text, "%d", &sent); ok && sent > 0 {
					mu.Lock()
					delays = append(delays, now.Sub(time.Unix(0, sent)))
					mu.Unlock()
					arrived <- struct{}{}
				}
			}
		}
	})
	kinds := []string{
		listen(func(net.Conn) {}),
		listen(func(c net.Conn) {
			var one [64]byte
			for {
				if _, err := c.Read(one[:]); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}),
		listen(func(c net.Conn) { io.CopyN(io.Discard, c, 100); c.Close() }),
	}
	var text strings.Builder
	for i := range n + bad {
		addr := good
		if i >= n {
			addr = kinds[i-n]
		}
		fmt.Fprintf(&text, `,{"url":"syslog://%s/%d"}`, addr, i)
	}
	path := filepath.Join(b.TempDir(), "drains.json")
	if err := os.WriteFile(path, []byte(`{"drains":[`+text.String()[1:]+`]}`), 0o600); err != nil {
		b.Fatal(err)
	}
	router := loggregator.New(nil)
	defer router.Close()
	set, err := drain.OpenFile(path, router, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer set.Close()
	fixed := identity.Encode()
	send := func() {
		// As much as makes a receiver that takes nothing hold up its drain.
		record := envelope.AppendLog(nil, fixed, time.Now().UnixNano(), envelope.Out, fmt.Appendf(nil, "sent=%d %s", time.Now().UnixNano(), strings.Repeat("x", 8<<10)))
		if err := router.WriteBatch(context.Background(), envelope.Batch{Records: record, Count: 1}); err != nil {
			b.Fatal(err)
		}
		for range n {
			<-arrived
		}
	}
	for range 10 { // connections
		send()
	}
	delays = nil
	b.ReportAllocs()
	for b.Loop() {
		send()
	}
	slices.Sort(delays)
	b.ReportMetric(float64(delays[len(delays)*99/100])/1e6, "p99-ms")
	b.ReportMetric(float64(delays[len(delays)/2])/1e6, "p50-ms")
	var missed uint64
	for _, st := range set.Status()[:n] {
		missed += st.Missed
	}
	b.ReportMetric(float64(missed), "missed")
}
