//go:build unix

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/drain"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/processtest"
	"github.com/cloudfoundry/loggregator/internal/receiver"
	"github.com/cloudfoundry/loggregator/transport"
)

func TestMain(m *testing.M) { processtest.Main(m) }

// server is a server with both its doors.
type server struct {
	*loggregator.Router
	read, ingest string
}

func startServer(t *testing.T) *server {
	t.Helper()
	r := loggregator.New(nil)
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	out, egress := transport.NewEgress(r, nil), listen()
	go out.Serve(egress)
	in, ingest := transport.NewServer(r, nil), listen()
	go in.Serve(ingest)
	t.Cleanup(func() {
		in.Close()
		out.Close()
		r.Close()
	})
	return &server{r, "tcp://" + egress.Addr().String(), "tcp://" + ingest.Addr().String()}
}

// log appends numbered lines of an application.
func (s *server) log(t *testing.T, app string, first, n int) {
	t.Helper()
	fixed := envelope.Identity{SourceID: app + "-guid", InstanceID: "0", Tags: map[string]string{
		envelope.TagAppName: app, envelope.TagSpaceName: "prod", envelope.TagOrgName: "acme", envelope.TagSourceType: "APP/PROC/WEB",
	}}.Encode()
	var records []byte
	for i := range n {
		records = envelope.AppendLog(records, fixed, time.Now().UnixNano(), envelope.Out, fmt.Appendf(nil, "%s seq=%d", app, first+i))
	}
	if err := s.WriteBatch(context.Background(), envelope.Batch{Records: records, Count: n}); err != nil {
		t.Error(err)
	}
}

// sink keeps what a receiver got.
type sink struct {
	*receiver.Receiver
	mu       sync.Mutex
	lines    []string
	seen     map[string]bool
	problems []string
}

func startSink(t *testing.T, o receiver.Options) *sink {
	t.Helper()
	k := &sink{seen: make(map[string]bool)}
	o.Report = func(m receiver.Message) {
		k.mu.Lock()
		defer k.mu.Unlock()
		if m.Parsed != nil {
			k.lines = append(k.lines, m.Line())
			k.seen[m.Line()] = true
		}
		k.problems = append(k.problems, m.Problems...)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if k.Receiver, err = receiver.New(ln, &o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func (k *sink) got() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string(nil), k.lines...)
}

// until waits for a line.
func (k *sink) until(t *testing.T, line string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		k.mu.Lock()
		there := k.seen[line]
		n := len(k.lines)
		k.mu.Unlock()
		if there {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q did not come; %d lines", line, n)
		}
	}
}

// process is a running loggregator-drain.
type process struct {
	*exec.Cmd
	out *output
}

func startProcess(t *testing.T, s *server, args ...string) *process {
	t.Helper()
	p := &process{out: new(output)}
	p.Cmd = exec.Command(processtest.Build(t, name), append([]string{"-read", s.read, "-server", s.ingest, "-ops", "127.0.0.1:0"}, args...)...)
	p.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	p.Stdout, p.Stderr = p.out, p.out
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.ProcessState == nil {
			p.Process.Kill()
			p.Wait()
		}
		if t.Failed() {
			t.Logf("%s said\n%s", name, p.out)
		}
	})
	return p
}

func (p *process) kill() {
	p.Process.Kill()
	p.Wait()
}

func (p *process) stop(t *testing.T) {
	t.Helper()
	p.Process.Signal(syscall.SIGTERM)
	if err := p.Wait(); err != nil {
		t.Errorf("ended with %v\n%s", err, p.out)
	}
}

// ops is the address of the operators' port.
func (p *process) ops(t *testing.T) string {
	t.Helper()
	return p.out.find(t, `operate  (http://\S+)`)
}

// status asks the operators' port.
func (p *process) status(t *testing.T) []drain.Status {
	t.Helper()
	resp, err := http.Get(p.ops(t) + "/v1/drains")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Drains []drain.Status }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return answer.Drains
}

func tlsConfig(cert tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}

func writeDrains(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "drains.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// complete checks that lines 0 to n-1 of app are there, and that a line comes
// again only in a run that comes again. It gives how many did.
func complete(t *testing.T, lines []string, app string, n int) (again int) {
	t.Helper()
	next := 0
	for _, line := range lines {
		var i int
		if c, _ := fmt.Sscanf(line, app+" seq=%d", &i); c != 1 {
			continue
		}
		if i > next {
			t.Fatalf("line %d where %d should be", i, next)
		}
		if i < next {
			again++
		}
		next = max(next, i+1)
	}
	if next != n {
		t.Errorf("%d lines of %d", next, n)
	}
	return again
}

func TestX03KilledProcessLosesNothing(t *testing.T) {
	s := startServer(t)
	shop, all := startSink(t, receiver.Options{}), startSink(t, receiver.Options{})
	file := writeDrains(t, fmt.Sprintf(`{"drains":[{"app":"shop","url":"%s"},{"url":"%s"}]}`, shop.URL(), all.URL()))
	const total, lives = 30_000, 5
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; i < total; i += 30 {
			s.log(t, "shop", i, 30)
			s.log(t, "web", i, 30)
			time.Sleep(5 * time.Millisecond)
		}
	})
	for range lives {
		p := startProcess(t, s, "-drains", file)
		p.out.find(t, "is running")
		time.Sleep(time.Duration(300+rand.IntN(1200)) * time.Millisecond)
		p.kill()
		time.Sleep(100 * time.Millisecond)
	}
	wg.Wait()
	p := startProcess(t, s, "-drains", file)
	p.out.find(t, "is running") // all may have come in an earlier life: a signal must not meet a process that does not listen yet
	shop.until(t, fmt.Sprintf("shop seq=%d", total-1))
	all.until(t, fmt.Sprintf("web seq=%d", total-1))
	p.stop(t)
	p.out.find(t, `Stopped\. 2 drains delivered \d+ records, missed 0, filtered 0, had 0 refused, and left 0\.`)
	shop.Shutdown(t.Context())
	all.Shutdown(t.Context())
	again := complete(t, shop.got(), "shop", total)
	again += complete(t, all.got(), "shop", total) + complete(t, all.got(), "web", total)
	t.Logf("%d of %d lines came again in %d lives", again, 3*total, lives)
	// A killed process may tear a line of its own, which the receiver must see.
	for _, problem := range append(shop.problems, all.problems...) {
		if !strings.Contains(problem, "in the middle of a message") {
			t.Error(problem)
		}
	}
}

// What was kept is enough to repeat nothing after an end in good order.
func TestX01StoppedProcessRepeatsNothing(t *testing.T) {
	s, shop := startServer(t), startSink(t, receiver.Options{})
	file := writeDrains(t, fmt.Sprintf(`{"drains":[{"app":"shop","url":"%s"}]}`, shop.URL()))
	const total = 3000
	for i := 0; i < total; i += 1000 {
		s.log(t, "shop", i, 500)
		p := startProcess(t, s, "-drains", file)
		shop.until(t, fmt.Sprintf("shop seq=%d", i+499))
		s.log(t, "shop", i+500, 500)
		p.stop(t)
		if i == 0 && !strings.Contains(p.out.String(), file+".positions") {
			t.Errorf("it does not say where: %s", p.out)
		}
	}
	p := startProcess(t, s, "-drains", file)
	p.out.find(t, "is running")
	p.stop(t)
	shop.Shutdown(t.Context())
	if again := complete(t, shop.got(), "shop", total); again != 0 {
		t.Errorf("%d lines came again", again)
	}
}

// A new binding is known to work, or not, and its application is told.
func TestB01BindWhileRunning(t *testing.T) {
	cert, ca, err := receiver.SelfSigned(time.Hour, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	s := startServer(t)
	good := startSink(t, receiver.Options{TLS: tlsConfig(cert)})
	web := startSink(t, receiver.Options{TLS: tlsConfig(cert), HTTPS: true})
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	os.WriteFile(caFile, ca, 0o600)
	file := writeDrains(t, `{"drains":[]}`)
	p := startProcess(t, s, "-drains", file, "-drain-ca", caFile, "-grace", "1s")
	p.out.find(t, "0 now; it is followed")
	os.WriteFile(file+".new", fmt.Appendf(nil, `{"drains":[{"source_id":"one-guid","url":"%s?x=secret"},{"source_id":"two-guid","url":"%s"},
		{"source_id":"three-guid","url":"syslog-tls://127.0.0.1:1"}, {"source_id":"four-guid","url":"ftp://secret"}]}`, good.URL(), web.URL()), 0o600)
	os.Rename(file+".new", file)
	bound := time.Now()
	var list []drain.Status
	for deadline := bound.Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		list = p.status(t)
		if len(list) == 4 && list[0].Test != nil && list[1].Test != nil && list[2].Test != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no verdict: %+v\n%s", list, p.out)
		}
	}
	if !list[0].Test.OK || !list[1].Test.OK || list[2].Test.OK || list[2].Test.Cause != drain.CauseConnect || list[3].State != drain.Invalid {
		t.Errorf("%+v %+v %+v %+v", list[0].Test, list[1].Test, list[2].Test, list[3])
	}
	good.until(t, "Loggregator tests this drain, which is new. What applications log follows.")
	web.until(t, "Loggregator tests this drain, which is new. What applications log follows.")
	wants := map[string]string{"one-guid": "works: it took a test line", "two-guid": "works: it took a test line", "three-guid": "does not work: ", "four-guid": "cannot be used: "}
	var told map[string]string
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		told = make(map[string]string)
		for b := range s.Batches(t.Context(), envelope.Query{Select: envelope.Everything, History: true}) {
			for e := range b.All() {
				if r, err := e.Route(); err == nil {
					told[string(r.SourceID)] += string(r.Payload)
				}
			}
		}
		all := true
		for app, want := range wants {
			all = all && strings.Contains(told[app], want)
		}
		if all {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("applications were told %q", told)
		}
	}
	for _, metric := range []string{`loggregator_drain_state{app="",cause="",drain="syslog-tls://127.0.0.1`, `loggregator_drain_bindings_unusable{provider="file `, "loggregator_drain_certificate_expiry_seconds"} {
		resp, err := http.Get(p.ops(t) + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if !strings.Contains(string(text), metric) {
			t.Errorf("no metric %s", metric)
		}
		if strings.Contains(string(text), "secret") {
			t.Error("a secret in the metrics")
		}
	}
	p.stop(t) // in time, though a receiver is away
	p.out.find(t, "What was not delivered is when this is started again, .*: 2 records were not delivered")
	if text := p.out.String() + fmt.Sprint(told); strings.Contains(text, "secret") {
		t.Errorf("a secret is told: %s", text)
	}
}

// Two servers, of which one is started later and one is killed: what each has
// arrives.
func TestSeveralServers(t *testing.T) {
	one, two := startServer(t), startServer(t)
	shop := startSink(t, receiver.Options{})
	file := writeDrains(t, fmt.Sprintf(`{"drains":[{"url":"%s"}]}`, shop.URL()))
	p := startProcess(t, one, "-drains", file, "-read", one.read+","+two.read+",tcp://127.0.0.1:1")
	one.log(t, "shop", 0, 1000)
	two.log(t, "web", 0, 1000)
	shop.until(t, "shop seq=999")
	shop.until(t, "web seq=999")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get(p.ops(t) + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusServiceUnavailable {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("ready though a server is away")
		}
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if text, _ := os.ReadFile(file + ".positions"); strings.Contains(string(text), `"cursor"`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no place is kept")
		}
	}
	p.kill()
	one.log(t, "shop", 1000, 1000)
	two.log(t, "web", 1000, 1000)
	p = startProcess(t, one, "-drains", file, "-read", one.read+","+two.read)
	shop.until(t, "shop seq=1999")
	shop.until(t, "web seq=1999")
	p.stop(t)
	shop.Shutdown(t.Context())
	complete(t, shop.got(), "shop", 2000)
	complete(t, shop.got(), "web", 2000)
	for _, line := range shop.got() {
		if strings.Contains(line, "dropped") {
			t.Errorf("nothing was lost, and it says %q", line)
		}
	}
}

// The Cloud Controller is asked with a certificate, and its drains stay out of
// the operator's network unless he lets them in.
func TestCAPIOverMutualTLS(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{}
	pair := map[string]tls.Certificate{}
	for _, who := range []string{"server", "client"} {
		cert, text, err := receiver.SelfSigned(time.Hour, "127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		pair[who], files[who] = cert, filepath.Join(dir, who+".pem")
		os.WriteFile(files[who], text, 0o600)
		os.WriteFile(files[who]+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600)
	}
	s, shop := startServer(t), startSink(t, receiver.Options{})
	clients := x509.NewCertPool()
	clients.AddCert(pair["client"].Leaf)
	capi := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/internal/v5/syslog_drain_urls" || len(r.TLS.PeerCertificates) != 1 {
			t.Errorf("asked for %s with %d certificates", r.URL.Path, len(r.TLS.PeerCertificates))
		}
		fmt.Fprintf(w, `{"results":[{"url":"%s","credentials":[{"cert":"","key":"","ca":"","apps":[{"hostname":"acme.prod.shop","app_id":"shop-guid"}]}]}],"next_id":null}`, shop.URL())
	}))
	capi.TLS = tlsConfig(pair["server"])
	capi.TLS.ClientAuth, capi.TLS.ClientCAs = tls.RequireAndVerifyClientCert, clients
	capi.StartTLS()
	defer capi.Close()
	args := []string{"-drains-capi", capi.URL, "-drains-ca", files["server"], "-drains-cert", files["client"], "-drains-key", files["client"] + ".key", "-drains-interval", "100ms", "-positions", filepath.Join(dir, "positions")}

	p := startProcess(t, s, args...)
	p.out.find(t, `binding not usable.*the address is not allowed for drains`)
	p.stop(t)
	p = startProcess(t, s, append(args, "-drains-allow", "127.0.0.0/8")...)
	s.log(t, "shop", 0, 10)
	shop.until(t, "shop seq=9")
	list := p.status(t)
	if len(list) != 1 || list[0].SourceID != "shop-guid" || list[0].Provider != "capi "+capi.URL {
		t.Errorf("%+v", list)
	}
	p.stop(t)
	p = startProcess(t, s, append(args, "-drains-cert=", "-drains-key=")...)
	p.out.find(t, `bindings not usable; keeping the last good ones.*no answer: `)
	p.stop(t)
}

func TestRunFlags(t *testing.T) {
	drains := writeDrains(t, `{"drains":[]}`)
	for _, tc := range []struct{ args, says string }{
		{"", "there is nothing to do without -drains"},
		{"-drains " + drains + " -read ftp://h", "-read: "},
		{"-drains " + drains + " -server nonsense", "-server: "},
		{"-drains " + drains + " -read-cert x", "-read-ca, -read-cert, -read-key: "},
		{"-drains " + drains + " -drain-cert x", "-drain-cert and -drain-key go together"},
		{"-drains " + drains + " -drain-ca " + drains, "-drain-ca: there is no certificate in"},
		{"-drains " + drains + " -drains-allow x", `-drains-allow: "x" is no network`},
		{"-drains " + drains + " -drains-capi x", "-drains-capi: "},
		{"-drains " + drains + " -drains-interval 0s", "-drains-interval must be more than 0"},
		{"-drains none.json", "-drains: drain: binding file: "},
		{"-drains " + drains + " -ops 0.0.0.0:0", "-ops: 0.0.0.0:0 can be reached from other machines"},
		{"what", `unexpected argument "what"`},
	} {
		err := run(t.Context(), append([]string{"-ops=", "-positions="}, strings.Fields(tc.args)...), io.Discard, io.Discard)
		if err == nil || !strings.HasPrefix(err.Error(), tc.says) {
			t.Errorf("%s: %v", tc.args, err)
		}
	}
}
