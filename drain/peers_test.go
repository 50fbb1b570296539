package drain

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/freeport"
)

// A test binary that is started with this variable is a receiver, see
// receiverMain.
const receiverVariable = "LOGGREGATOR_TEST_RECEIVER"

func init() {
	if v := os.Getenv(receiverVariable); v != "" {
		addr, file, _ := strings.Cut(v, "|")
		if err := receiverMain(addr, file); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// receiverMain takes messages on addr and writes each line to file when it has
// read it, and not later.
func receiverMain(addr, file string) error {
	out, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			in := bufio.NewReaderSize(c, 4096)
			for {
				length, err := in.ReadString(' ')
				if err != nil {
					return
				}
				n, err := strconv.Atoi(strings.TrimSuffix(length, " "))
				if err != nil {
					panic(err)
				}
				message := make([]byte, n)
				if _, err := io.ReadFull(in, message); err != nil {
					return
				}
				_, text, _ := bytes.Cut(message, []byte("] seq="))
				out.Write(append([]byte("seq="), text...))
			}
		}()
	}
}

// process is a receiver of its own that a test starts and ends.
type process struct {
	t       *testing.T
	command func() *exec.Cmd
	addr    string
	cmd     *exec.Cmd
	log     bytes.Buffer
}

func (p *process) start() {
	p.t.Helper()
	p.cmd = p.command()
	p.cmd.Stderr, p.cmd.Stdout = &p.log, &p.log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("tcp", p.addr); err == nil {
			c.Close()
			return
		}
		if time.Since(start) > 20*time.Second {
			p.t.Fatalf("the receiver does not start: %s", p.log.String())
		}
	}
}

func (p *process) end(s os.Signal) {
	p.cmd.Process.Signal(s)
	p.cmd.Wait()
}

// restarts sends 5,000 lines a second from a router to a receiver that is ended
// and started again rounds times meanwhile, at random moments, and checks what is in the receiver's
// file: every line, in order but for what was sent again, of which there is no
// more than is counted, and no more than the receiver can have held each time.
func restarts(t *testing.T, url string, p *process, file string, signal os.Signal, rounds int, o *Options) {
	const perSecond = 5000
	p.start()
	defer func() { p.end(os.Kill) }()
	router := loggregator.New(nil)
	defer router.Close()
	quick := Options{}
	if o != nil {
		quick = *o
	}
	quick.Backoff = func(int) time.Duration { return 20 * time.Millisecond } // so that it is back between two restarts
	d, err := Open(url, router, everything, &quick)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()

	total := 0
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		fixed := sixTags.Encode()
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			var records []byte
			for range perSecond * 2 / 1000 {
				records = envelope.AppendLog(records, fixed, time.Now().UnixNano(), envelope.Out, fmt.Appendf(nil, "seq=%d %s", total, strings.Repeat("x", 100)))
				total++
			}
			b, _ := envelope.Of(records)
			if err := router.WriteBatch(context.Background(), b); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	seed := mathrand.Uint64()
	rng := mathrand.New(mathrand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	for i := range rounds {
		// It is ended in the middle of something, not before it took anything.
		for before, start := d.Stats(), time.Now(); ; time.Sleep(time.Millisecond) {
			if now := d.Stats(); now.Connects > uint64(i) && now.Delivered > before.Delivered {
				break
			}
			if time.Since(start) > 30*time.Second {
				t.Fatalf("it takes nothing: %+v", d.Stats())
			}
		}
		time.Sleep(time.Duration(rng.IntN(150)) * time.Millisecond)
		p.end(signal)
		if i%4 == 3 {
			time.Sleep(100 * time.Millisecond)
		}
		p.start()
	}
	time.Sleep(200 * time.Millisecond)
	close(stop)
	<-stopped
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := d.Shutdown(ctx); err != nil {
		t.Fatal(err, d.Stats())
	}
	s := d.Stats()
	if s.Accepted != uint64(total) || s.Accepted != s.Delivered+s.Missed+s.Filtered+s.Refused+s.Pending || s.Delivered != uint64(total) {
		t.Errorf("of %d: %+v", total, s)
	}
	var next, repeated int
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if next, repeated = readLines(t, file); next == total {
			break
		}
		if time.Since(start) > 20*time.Second {
			t.Fatalf("%d lines of %d, %s", next, total, p.log.String())
		}
	}
	t.Logf("%d lines, %d of them more than once; %d counted as resent; %d connects, %d failures", total, repeated, s.Resent, s.Connects, s.Failures)
	if limit := rounds * (4 << 20) / 300; uint64(repeated) > s.Resent || repeated > limit {
		t.Errorf("%d lines came again, %d counted, %d expected at most", repeated, s.Resent, limit)
	}
}

// readLines checks the order of a receiver's lines: none may be missing, but after
// a restart some may come again.
func readLines(t *testing.T, file string) (next, repeated int) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 1<<20)
	last := -1
	for in.Scan() {
		text, _, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(in.Text()), "seq="), " ")
		n, err := strconv.Atoi(text)
		if err != nil || !ok {
			continue // the last line of a receiver that was killed
		}
		if n > next {
			t.Fatalf("line %d where %d should be", n, next)
		}
		if n < next {
			repeated++
		}
		if n <= last && last-n > 200_000 {
			t.Fatalf("line %d after %d", n, last)
		}
		last, next = n, max(next, n+1)
	}
	return next, repeated
}

func TestT02ReceiverKilled20Times(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	file, addr := filepath.Join(t.TempDir(), "out"), freeport.Addr()
	p := &process{t: t, addr: addr, command: func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), receiverVariable+"="+addr+"|"+file)
		return cmd
	}}
	restarts(t, "syslog://"+addr, p, file, os.Kill, 20, nil)
}

// rsyslog is a receiver that many people run.
func rsyslog(t *testing.T, input string) (p *process, file string) {
	t.Helper()
	const program = "/usr/sbin/rsyslogd"
	if _, err := os.Stat(program); err != nil {
		missing(t, "rsyslogd is not installed: ", err)
	}
	dir := t.TempDir()
	p = &process{t: t, addr: freeport.Addr()}
	_, port, _ := net.SplitHostPort(p.addr)
	file = filepath.Join(dir, "out")
	config := filepath.Join(dir, "rsyslog.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, `
global(workDirectory=%q maxMessageSize="128k" parser.escapeControlCharactersOnReceive="off")
# What it has read when it is told to end it has to write: else it throws it away.
main_queue(queue.timeoutShutdown="20000")
%s
input(type="imtcp" address="127.0.0.1" port="%s")
template(name="line" type="string" string="%%msg:::drop-last-lf%%\n")
action(type="omfile" file=%q template="line")
`, dir, input, port, file), 0o600); err != nil {
		t.Fatal(err)
	}
	p.command = func() *exec.Cmd { return exec.Command(program, "-n", "-f", config, "-i", filepath.Join(dir, "pid")) }
	return p, file
}

// missing ends a test whose peer is not here.
func missing(t *testing.T, args ...any) {
	t.Helper()
	if os.Getenv("LOGGREGATOR_PEERS") == "required" {
		t.Fatal(args...)
	}
	t.Skip(args...)
}

func TestT02RsyslogRestarted20Times(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	p, file := rsyslog(t, `module(load="imtcp")`)
	restarts(t, "syslog://"+p.addr, p, file, syscall.SIGTERM, 20, nil)
}

// authority is a certificate authority for one test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	PEM  []byte
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * 365 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	a.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, _ = x509.ParseCertificate(der)
	a.PEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// issue makes a certificate for name and its key, both in PEM.
func (a *authority) issue(name string, valid time.Duration) (cert, key []byte) {
	k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(valid),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{name},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.DNSNames, template.IPAddresses = nil, []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs, _ := x509.MarshalPKCS8PrivateKey(k)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs})
}

// TestL00RsyslogTLS sends over TLS to rsyslog, which shows its certificate and, in
// the second case, asks for ours (RFC 5425, section 4.2), and is restarted.
func TestL00RsyslogTLS(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	if list, _ := filepath.Glob("/usr/lib/*/rsyslog/lmnsd_gtls.so"); len(list) == 0 {
		missing(t, "rsyslog's TLS driver is not installed (Debian: rsyslog-gnutls)")
	}
	for name, mutual := range map[string]bool{"server": false, "mutual": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it takes rsyslog a second to begin
			ca := newAuthority(t)
			dir := t.TempDir()
			cert, key := ca.issue("127.0.0.1", time.Hour)
			for name, text := range map[string][]byte{"ca.pem": ca.PEM, "cert.pem": cert, "key.pem": key} {
				if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			auth := `StreamDriver.AuthMode="anon"`
			if mutual {
				auth = `StreamDriver.AuthMode="x509/name" PermittedPeer=["drain.example"]`
			}
			p, file := rsyslog(t, fmt.Sprintf(`
global(DefaultNetstreamDriver="gtls" DefaultNetstreamDriverCAFile=%q DefaultNetstreamDriverCertFile=%q DefaultNetstreamDriverKeyFile=%q)
module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1" %s)`,
				filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), auth))
			config := &tls.Config{RootCAs: x509.NewCertPool()}
			config.RootCAs.AppendCertsFromPEM(ca.PEM)
			if mutual {
				pair, err := tls.X509KeyPair(ca.issue("drain.example", time.Hour))
				if err != nil {
					t.Fatal(err)
				}
				config.Certificates = []tls.Certificate{pair}
			}
			restarts(t, "syslog-tls://"+p.addr, p, file, syscall.SIGTERM, 20, &Options{TLS: config})
		})
	}
}
