//go:build linux

package walkthrough

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/cluster"
	"github.com/cloudfoundry/loggregator/transport/httpclient"
)

// idleApps is how many there are that say nothing.
const idleApps = 100

// busy is a cluster whose servers keep a lot, and somebody who logs there.
func busy(b *testing.B) (*cluster.Cluster, *source, *httpclient.Client) {
	w := newWorld(b)
	apps := []string{"app"}
	for i := range idleApps {
		apps = append(apps, fmt.Sprint("idle-", i))
	}
	c, err := cluster.Start(&cluster.Options{Bin: w.bin, Dir: w.dir, Flags: map[string][]string{
		"server": {"-new-sources", "-1", "-budget", "1GiB"},
		"sink":   {"-max-readers-per-user", "-1", "-reader-rate", "1GiB"},
	}, World: writeWorld(b, w.dir, map[string][]string{"dev": apps}, map[string][]string{"dev": {"ann"}})})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Stop() })
	client, err := httpclient.New(c.People[0], &httpclient.Options{Header: http.Header{"Authorization": {"bearer " + token(b, c, "ann")}}})
	if err != nil {
		b.Fatal(err)
	}
	return c, newSource(b, c.Programs[0], []string{"app"}, func(string) string { return "dev" }), client
}

// follow reads the app until ctx ends.
func follow(ctx context.Context, b *testing.B, client *httpclient.Client, put func(envelope.Batch)) {
	params := url.Values{"source_id": {guid("app")}, "wait": {"true"}, "since": {"1h"}}
	err := client.Stream(ctx, "tail", params, nil, func(b envelope.Batch) error { put(b); return nil })
	if ctx.Err() == nil {
		b.Errorf("the tail ended: %v", err)
	}
}

// BenchmarkCluster is what agent, server and sink as separate daemons carry over
// mutual TLS, from one agent to one tail; then how late lines are that go half as
// fast.
func BenchmarkCluster(b *testing.B) {
	const records = 400_000
	c, s, client := busy(b)
	var seen, missed atomic.Int64
	var timed atomic.Bool
	var mu sync.Mutex
	var late []time.Duration
	ctx, cancel := context.WithCancel(b.Context())
	var reading sync.WaitGroup
	reading.Go(func() {
		follow(ctx, b, client, func(batch envelope.Batch) {
			now := time.Now().UnixNano()
			missed.Add(int64(batch.Missed))
			seen.Add(int64(batch.Count))
			if !timed.Load() {
				return
			}
			mu.Lock()
			for e := range batch.All() {
				if route, err := e.Route(); err == nil {
					late = append(late, time.Duration(now-route.Timestamp))
				}
			}
			mu.Unlock()
		})
	})
	s.emit(1)
	until(b, 30*time.Second, "first line", func() bool { return seen.Load() == 1 })
	sent := int64(1)
	before := processorTime(b, c)
	for b.Loop() {
		s.emit(records)
		sent += records
		until(b, 60*time.Second, "last line", func() bool { return seen.Load()+missed.Load() >= sent })
	}
	made := float64(sent - 1)
	rate := made / b.Elapsed().Seconds()
	b.ReportMetric(rate, "records/s")
	b.ReportMetric((processorTime(b, c)-before).Seconds()/made*1e6, "cpu-s/M")

	// Half as fast, for two seconds.
	timed.Store(true)
	start := time.Now()
	tick := time.NewTicker(time.Millisecond)
	for emitted := 0; ; {
		<-tick.C
		since := time.Since(start)
		if since > 2*time.Second {
			break
		}
		due := int(since.Seconds() * rate / 2)
		s.emit(due - emitted)
		sent += int64(due - emitted)
		emitted = due
	}
	tick.Stop()
	until(b, 60*time.Second, "last line", func() bool { return seen.Load()+missed.Load() >= sent })
	cancel()
	reading.Wait()
	slices.Sort(late)
	at := func(share float64) float64 { return late[int(float64(len(late)-1)*share)].Seconds() * 1000 }
	b.ReportMetric(at(0.5), "p50-ms-at-half")
	b.ReportMetric(at(0.99), "p99-ms-at-half")
	b.ReportMetric(float64(missed.Load()), "missed")
}

// BenchmarkTails is what tails cost a sink: ten thousand of apps that say
// nothing, and a thousand of one that says 100 lines a second.
func BenchmarkTails(b *testing.B) {
	for _, bench := range []struct {
		name  string
		tails int
		lines int
	}{{"idle", 10_000, 0}, {"busy", 1000, 100}} {
		b.Run(bench.name, func(b *testing.B) {
			c, s, client := busy(b)
			s.emit(1)
			for b.Loop() {
				before := residentNow(b, c.Sinks[0])
				var joined, seen, missed atomic.Int64
				var mu sync.Mutex
				var late []time.Duration
				ctx, cancel := context.WithCancel(b.Context())
				var reading sync.WaitGroup
				for i := range bench.tails {
					reading.Go(func() {
						id := guid("app")
						if bench.lines == 0 {
							id = guid(fmt.Sprint("idle-", i%idleApps))
						}
						params := url.Values{"source_id": {id}, "wait": {"true"}}
						err := client.Stream(ctx, "tail", params, func() { joined.Add(1) }, func(batch envelope.Batch) error {
							now := time.Now().UnixNano()
							seen.Add(int64(batch.Count))
							missed.Add(int64(batch.Missed))
							mu.Lock()
							defer mu.Unlock()
							for e := range batch.All() {
								if route, err := e.Route(); err == nil {
									late = append(late, time.Duration(now-route.Timestamp))
								}
							}
							return nil
						})
						if ctx.Err() == nil {
							b.Errorf("a tail ended: %v", err)
						}
					})
				}
				until(b, 120*time.Second, "tails", func() bool { return joined.Load() == int64(bench.tails) })
				if bench.lines > 0 {
					tick := time.NewTicker(time.Second / time.Duration(bench.lines))
					for range 3 * bench.lines {
						<-tick.C
						s.emit(1)
					}
					tick.Stop()
					until(b, 60*time.Second, "last line", func() bool {
						return seen.Load()+missed.Load() >= int64(bench.tails*3*bench.lines)
					})
					slices.Sort(late)
					b.ReportMetric(late[len(late)/2].Seconds()*1000, "p50-ms")
					b.ReportMetric(late[len(late)*99/100].Seconds()*1000, "p99-ms")
				}
				b.ReportMetric(float64(residentNow(b, c.Sinks[0])-before)/float64(bench.tails)/1024, "KiB/tail")
				b.ReportMetric(float64(missed.Load()), "missed")
				cancel()
				reading.Wait()
			}
		})
	}
}

// processorTime is what the daemons have used.
func processorTime(b *testing.B, c *cluster.Cluster) (sum time.Duration) {
	b.Helper()
	for _, d := range c.All()[1:] {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.Pid()))
		if err != nil {
			b.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		var user, system int
		fields := strings.Fields(rest)
		fmt.Sscan(fields[11], &user)
		fmt.Sscan(fields[12], &system)
		sum += time.Duration(user+system) * 10 * time.Millisecond
	}
	return sum
}

// residentNow is the memory in bytes that the process has.
func residentNow(b *testing.B, d *cluster.Daemon) int {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Pid()))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	var kb int
	fmt.Sscan(rest, &kb)
	return kb << 10
}
