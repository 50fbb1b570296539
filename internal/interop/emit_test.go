package interop

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	stock "code.cloudfoundry.org/go-loggregator/v10"
	"code.cloudfoundry.org/go-loggregator/v10/rpc/loggregator_v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport"
)

// What a log call costs the program that makes it, ours beside the stock
// client's, with an agent that takes everything and with one that stops.

const (
	agentEnv = "INTEROP_AGENT" // ours or stock: run that agent
	sourceID = "5f6c7a1e-3a3b-4c1d-9e2f-000000000000"
)

var (
	line = strings.Repeat("x", 200)
	tags = map[string]string{
		"app_name": "shop-frontend-0", "space_name": "production", "organization_name": "acme",
		"app_id": sourceID, "source_type": "APP/PROC/WEB", "process_type": "web",
	}
)

// TestMain is the agent, too, in a process of its own.
func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(agentEnv) {
	case "":
		os.Exit(m.Run())
	case "ours":
		err = ourAgent()
	case "stock":
		err = stockAgent()
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// listen says on standard output where.
func listen() (net.Listener, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		fmt.Println(ln.Addr())
	}
	return ln, err
}

func ourAgent() error {
	ln, err := listen()
	if err != nil {
		return err
	}
	return transport.NewServer(loggregator.New(nil), nil).Serve(ln)
}

// stockAgent takes what the stock client sends, and does nothing with it.
type stockServer struct {
	loggregator_v2.UnimplementedIngressServer
}

func (stockServer) BatchSender(s loggregator_v2.Ingress_BatchSenderServer) error {
	for {
		if _, err := s.Recv(); err != nil {
			return err
		}
	}
}

func stockAgent() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"metron"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	ln, err := listen()
	if err != nil {
		return err
	}
	creds := credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	s := grpc.NewServer(grpc.Creds(creds))
	loggregator_v2.RegisterIngressServer(s, stockServer{})
	return s.Serve(ln)
}

// agent starts one and returns its process and address.
func agent(t testing.TB, kind string) (*os.Process, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), agentEnv+"="+kind)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGCONT)
		cmd.Process.Kill()
		cmd.Wait()
	})
	var addr string
	if _, err := fmt.Fscan(out, &addr); err != nil {
		t.Fatal(err)
	}
	return cmd.Process, addr
}

// ours is a log call of our emitter, in front of a router whose link goes to
// addr. account checks that what was made is what the router knows of.
func ours(t testing.TB, addr string) (log func(), account func(made uint64)) {
	t.Helper()
	router := loggregator.New(&loggregator.Options{Budget: 64 << 20})
	link, err := transport.NewLink("tcp://"+addr, router, nil)
	if err != nil {
		t.Fatal(err)
	}
	e := emitter.New(router, envelope.Identity{SourceID: sourceID, InstanceID: "0", Tags: tags}, nil)
	t.Cleanup(func() {
		link.Close()
		router.Close()
	})
	return func() { e.Log(envelope.Out, line) }, func(made uint64) {
		t.Helper()
		if s := e.Stats(); s.Accepted != made || s.Refused > 0 {
			t.Errorf("made %d, emitter %+v", made, s)
		}
		if s := router.Stats(); s.Accepted+s.Marked != s.Held+s.Evicted+s.Expired {
			t.Errorf("%+v", s)
		}
	}
}

func theirs(t testing.TB, addr string) (log func(), account func(uint64)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	client, err := stock.NewIngressClient(&tls.Config{InsecureSkipVerify: true}, stock.WithAddr(addr), stock.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		client.EmitLog(line, stock.WithAppInfo(sourceID, "APP/PROC/WEB", "0"), stock.WithEnvelopeTags(tags), stock.WithStdout())
	}, func(uint64) {}
}

// hole carries connections to an agent until it swallows them: from then on
// nothing arrives, either way, and nobody is told.
type hole struct {
	ln        net.Listener
	swallowed chan struct{}
}

func newHole(t testing.TB, to string) *hole {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hole{ln, make(chan struct{})}
	ended := make(chan struct{})
	t.Cleanup(func() {
		ln.Close()
		close(ended)
	})
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			go func() {
				<-ended
				c.Close()
				s.Close()
			}()
			go h.carry(c, s)
			go h.carry(s, c)
		}
	}()
	return h
}

func (h *hole) carry(to, from net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-h.swallowed:
			return
		default:
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			to.Close()
			return
		}
	}
}

var clients = []struct {
	name  string
	agent string
	start func(testing.TB, string) (func(), func(uint64))
}{{"ours", "ours", ours}, {"stock", "stock", theirs}, {"copy", "ours", copying}}

// copying is what the machine allows: a call that does nothing but copy as many bytes
// into memory as our record has, next to nobody who sends them.
func copying(testing.TB, string) (func(), func(uint64)) {
	record := envelope.AppendLog(nil, envelope.Identity{SourceID: sourceID, InstanceID: "0", Tags: tags}.Encode(), time.Now().UnixNano(), envelope.Out, []byte(line))
	memory, at := make([]byte, 64<<20), 0
	var mu sync.Mutex
	return func() {
		mu.Lock()
		if at+len(record) > len(memory) {
			at = 0
		}
		at += copy(memory[at:], record)
		mu.Unlock()
	}, func(uint64) {}
}

// BenchmarkEmit is a line of 200 bytes with six tags, by one goroutine, two and
// eight.
func BenchmarkEmit(b *testing.B) {
	for _, client := range clients {
		for _, goroutines := range []int{1, 2, 8} {
			b.Run(fmt.Sprintf("%s/goroutines=%d", client.name, goroutines), func(b *testing.B) {
				_, addr := agent(b, client.agent)
				log, account := client.start(b, addr)
				b.ReportAllocs()
				b.SetParallelism(max(1, goroutines/runtime.GOMAXPROCS(0)))
				if goroutines == 1 {
					for b.Loop() {
						log()
					}
				} else {
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							log()
						}
					})
				}
				b.StopTimer()
				account(uint64(b.N))
			})
		}
	}
}

// working is what the machine allows next to a link that sends: it looks at the clock
// for as long as our call takes, 300 ns, and does nothing else. How long it takes at
// worst is for how long the system takes the processor away meanwhile.
func working() {
	for start := time.Now(); time.Since(start) < 300*time.Nanosecond; {
	}
}

// BenchmarkEmitDuring emits 50,000 records a second while something befalls the
// agent, and reports how long calls took. One operation is half a second of
// that; a client that blocks is waited for no longer than two. Of "working", a call of
// ours stands beside each that is measured.
func BenchmarkEmitDuring(b *testing.B) {
	const (
		rate   = 50_000
		during = 500 * time.Millisecond
	)
	measured := append(slices.Clone(clients), clients[0])
	measured[len(clients)].name = "working"
	for _, client := range measured {
		for _, fault := range []struct {
			name   string
			strike func(p *os.Process, h *hole) error
		}{
			{"nothing", func(*os.Process, *hole) error { return nil }},
			{"SIGSTOP", func(p *os.Process, _ *hole) error { return p.Signal(syscall.SIGSTOP) }},
			{"SIGKILL", func(p *os.Process, _ *hole) error { return p.Kill() }},
			{"black hole", func(_ *os.Process, h *hole) error { close(h.swallowed); return nil }},
		} {
			if client.name == "copy" && fault.name != "nothing" {
				continue // it has no agent
			}
			b.Run(client.name+"/"+fault.name, func(b *testing.B) {
				process, addr := agent(b, client.agent)
				h := newHole(b, addr)
				log, account := client.start(b, h.ln.Addr().String())
				for range 1000 { // the connection stands
					log()
				}
				beside := func() {}
				if client.name == "working" {
					beside, log = log, working
				}
				var times []time.Duration
				struck, blocked := false, false
				made := uint64(1000)
				for b.Loop() {
					if blocked {
						continue
					}
					ended := make(chan []time.Duration, 1)
					go func() {
						took := make([]time.Duration, 0, rate)
						start := time.Now()
						for due := start; due.Sub(start) < during; due = due.Add(time.Second / rate) {
							for time.Now().Before(due) {
								runtime.Gosched()
							}
							beside()
							before := time.Now()
							log()
							took = append(took, time.Since(before))
						}
						ended <- took
					}()
					if !struck {
						time.Sleep(during / 5)
						if err := fault.strike(process, h); err != nil {
							b.Fatal(err)
						}
						struck = true
					}
					select {
					case took := <-ended:
						times = append(times, took...)
						made += uint64(len(took))
					case <-time.After(2 * time.Second):
						blocked = true
					}
				}
				if blocked {
					b.ReportMetric(1, "blocked")
					return
				}
				account(made)
				slices.Sort(times)
				at := func(share float64) float64 {
					return float64(times[int(float64(len(times)-1)*share)].Nanoseconds()) / 1000
				}
				b.ReportMetric(at(0.5), "p50-µs")
				b.ReportMetric(at(0.99), "p99-µs")
				b.ReportMetric(at(0.9999), "p99.99-µs")
				b.ReportMetric(at(1), "max-µs")
			})
		}
	}
}
