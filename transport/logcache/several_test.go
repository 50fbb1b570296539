package logcache

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// TestStretchesOfNumberedRecords: where a read leaves out what lies between, the
// numbers that the maker gave its records have gaps. Nothing is missing there, nobody
// waits for it, and what both servers hold comes once.
func TestStretchesOfNumberedRecords(t *testing.T) {
	c, routers, _ := severalServers(t)
	const n = 3000
	for i := 0; i < n; i += 100 {
		b := envelope.Batch{Stream: 77, First: uint64(i + 1), Next: uint64(i + 101), Count: 100, Begin: 1}
		for k := i; k < i+100; k++ {
			at := int64(k + 1)
			if k >= 1000 && k < 2000 {
				at += 100_000 // 101,001 to 102,000, what lies between
			}
			b.Records = append(b.Records, logLine("a", at, strings.Repeat("x", 100))...)
		}
		for k, r := range routers { // the maker goes over to the other server, and repeats a part there
			if k == 0 && i < 1500 || k == 1 && i >= 1200 {
				if err := r.WriteBatch(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, query := range []string{"limit=1000", "limit=1000&start_time=1001", "limit=10&start_time=995", "limit=1000&descending=true&end_time=3001", "limit=700&start_time=101200"} {
		before := time.Now()
		page := c.read("a", query)
		var want int
		fmt.Sscanf(query, "limit=%d", &want)
		if len(page) != want || strings.Contains(fmt.Sprint(page), "missing") {
			t.Errorf("%s: %d lines, %.200s", query, len(page), fmt.Sprint(page))
		}
		for i := 1; i < len(page); i++ {
			if page[i] == page[i-1] {
				t.Errorf("%s: %.20s comes twice", query, page[i])
			}
		}
		if took := time.Since(before); took > 10*time.Second { // nobody waits for a minute
			t.Errorf("%s took %v", query, took)
		}
	}
	if s := c.Stats(); s.Missed != 0 {
		t.Errorf("%+v", s)
	}
}

// TestSeveralServers: a source whose records are on two servers is read as one, in
// both directions, and timestamps that are on both are not split.
func TestSeveralServers(t *testing.T) {
	c, routers, servers := severalServers(t)
	const n = 2000
	for i := range n {
		at := int64(1 + i/4)
		if i%50 == 0 && at > 20 {
			at -= 20 // late
		}
		counter := "other"
		if i%100 == 0 {
			counter = "wanted"
		}
		records := envelope.AppendCounter(logLine("a", at, fmt.Sprint(i)), identity("a"), at, counter, uint64(i), 1)
		to := routers[i*7/3%2]
		if i > n/2 { // most of the second half is on one
			to = routers[min(i%9, 1)]
		}
		if err := to.WriteBatch(t.Context(), envelope.Batch{Records: records, Count: 2}); err != nil {
			t.Fatal(err)
		}
	}
	for _, limit := range []int{3, 100} {
		for _, descending := range []bool{false, true} {
			seen := map[string]bool{}
			start, end, pages := int64(0), int64(1000), 0
			for {
				page := c.read("a", fmt.Sprintf("envelope_types=LOG&limit=%d&descending=%v&start_time=%d&end_time=%d", limit, descending, start, end))
				if len(page) == 0 {
					break
				}
				pages++
				var at int64
				for _, text := range page {
					if seen[text] {
						t.Fatalf("limit %d, descending %v: %s again", limit, descending, text)
					}
					seen[text] = true
					fmt.Sscan(text, &at)
				}
				if start = at + 1; descending {
					start, end = 0, at
				}
			}
			if len(seen) != n {
				t.Errorf("limit %d, descending %v: %d of %d in %d pages", limit, descending, len(seen), n, pages)
			}
		}
	}
	for _, limit := range []int{1, 7, 19, 20, 21} {
		for _, descending := range []bool{false, true} {
			if got := c.read("a", fmt.Sprintf("name_filter=wanted&limit=%d&descending=%v&end_time=1000", limit, descending)); len(got) != min(limit, 20) {
				t.Errorf("names, limit %d, descending %v: %q", limit, descending, got)
			}
		}
	}
	if _, body := c.get("/api/v1/meta"); !strings.Contains(body, `"a":{"count":"4000","expired":"0","oldest_timestamp":"1"`) {
		t.Errorf("meta: %s", body)
	}

	// A server that is away is told where pages are not turned by it.
	servers[1].Close()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, body := c.get(readPath + "a?descending=true&limit=1000") // may fail where the server breaks off
		page, _ := parse(body)
		if len(page) > 0 && strings.Contains(page[0], "127.0.0.1") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody is told that a server is away: %q", page[:min(3, len(page))])
		}
	}
	page := c.read("a", "limit=1000")
	if len(page) == 0 || slices.ContainsFunc(page, func(s string) bool { return strings.Contains(s, "127.0.0.1") }) {
		t.Errorf("a page that is turned has %d lines, of now too", len(page))
	}
}

// severalServers is a Server over a Reader of two servers, each with a router.
func severalServers(t *testing.T) (*cache, []*loggregator.Router, []*transport.Egress) {
	var routers []*loggregator.Router
	var servers []*transport.Egress
	var addresses []string
	for range 2 {
		r := loggregator.New(nil)
		e := transport.NewEgress(r, nil)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go e.Serve(ln)
		t.Cleanup(func() { e.Close(); r.Close() })
		routers, servers, addresses = append(routers, r), append(servers, e), append(addresses, "tcp://"+ln.Addr().String())
	}
	reader, err := transport.NewReader(strings.Join(addresses, ","), &transport.ReaderOptions{TellAfter: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	s := New(access.NewGate(reader, nil, nil), &Options{Sources: reader})
	t.Cleanup(func() { s.Close(); reader.Close() })
	return &cache{t: t, Server: s, router: routers[0]}, routers, servers
}
