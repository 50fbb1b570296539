// Bench measures a server of the v2 API: batches go in by Ingress/BatchSender, and
// come out by Egress/BatchedReceiver, over mutual TLS. It knows nothing of the
// server but its addresses, so one program measures today's router and ours:
//
//	cd internal/bench && go run .                       ours, started for it
//	go run . -in 127.0.0.1:8082 -out 127.0.0.1:8083 -pid 123,456 \
//	    -ca ca.crt -cert client.crt -key client.key     any other
//
// A record is a line of 200 bytes with six tags, 480 bytes on the wire. What is
// counted is what arrives: records that were sent and did not come are drops. The
// CPU time is that of the server's processes alone, for each million records in,
// and out.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"
)

// settings are the flags.
type settings struct {
	in, out       string
	pids          string
	ca, cert, key string
	inName        string
	outName       string
	scenarios     string
	during, lead  time.Duration
	rate          int
	senders       int
	apps, run     int
}

func main() {
	if os.Getenv(serverEnv) != "" {
		fmt.Fprintln(os.Stderr, runServer())
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var s settings
	flag.StringVar(&s.in, "in", "", "`address` of an Ingress; empty starts our server")
	flag.StringVar(&s.out, "out", "", "`address` of an Egress; empty is that of -in")
	flag.StringVar(&s.pids, "pid", "", "`processes` of that server, separated by commas, for their CPU time (Linux)")
	flag.StringVar(&s.ca, "ca", "", "PEM `file` of the CA of -in and -out")
	flag.StringVar(&s.cert, "cert", "", "PEM `file` of a certificate to show")
	flag.StringVar(&s.key, "key", "", "PEM `file` of its key")
	flag.StringVar(&s.inName, "in-name", "doppler", "`name` in the certificate of -in")
	flag.StringVar(&s.outName, "out-name", "reverselogproxy", "`name` in the certificate of -out")
	flag.StringVar(&s.scenarios, "scenarios", "one,ten-selectors,ten-full,idle-1000", "`names` of what to measure")
	flag.DurationVar(&s.during, "for", 10*time.Second, "how long to send in each")
	flag.DurationVar(&s.lead, "lead", 3*time.Second, "how long to send as fast before, so that the server has taken its memory from the system")
	flag.IntVar(&s.rate, "rate", 0, "records a `second` to send; 0 is as many as are taken")
	flag.IntVar(&s.senders, "senders", 2, "`how many` connections send")
	flag.IntVar(&s.apps, "apps", 100, "`how many` applications log")
	flag.IntVar(&s.run, "run", 10, "`records` of one application that stand together in a batch of 100")
	flag.Parse()
	if err := s.all(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// all measures one scenario after the other.
func (s *settings) all(ctx context.Context, out *os.File) error {
	if s.apps < 10 || s.run < 1 || s.senders < 1 {
		return errors.New("-apps must be 10 at least, -run and -senders 1")
	}
	fmt.Fprintf(out, "%-14s %10s %10s %8s %9s %9s %9s %9s %9s %8s\n",
		"scenario", "in/s", "out/s", "drops", "p50 ms", "p99 ms", "max ms", "s/M in", "s/M out", "RSS MiB")
	for name := range strings.SplitSeq(s.scenarios, ",") {
		i := slices.IndexFunc(scenarios, func(sc scenario) bool { return sc.name == name })
		if i < 0 {
			return fmt.Errorf("there is no scenario %q", name)
		}
		if err := s.one(ctx, scenarios[i], out); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (s *settings) one(ctx context.Context, sc scenario, out *os.File) error {
	t := target{in: s.in, out: s.out}
	files := [3]string{s.ca, s.cert, s.key}
	if s.in == "" { // a new one for each, so that none has what was before
		dir, err := os.MkdirTemp("", "bench")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if files, err = makePKI(dir); err != nil {
			return err
		}
		addr, cmd, err := startServer(files)
		if err != nil {
			return err
		}
		defer func() {
			cmd.Process.Kill()
			cmd.Wait()
		}()
		t.in, t.pids = addr, []int{cmd.Process.Pid}
	}
	if t.out == "" {
		t.out = t.in
	}
	for pid := range strings.SplitSeq(s.pids, ",") {
		if n, err := strconv.Atoi(pid); err == nil {
			t.pids = append(t.pids, n)
		}
	}
	config, err := clientTLS(files)
	if err != nil {
		return err
	}
	t.inTLS, t.outTLS = config.Clone(), config
	t.inTLS.ServerName, t.outTLS.ServerName = s.inName, s.outName
	r, err := measure(ctx, t, sc, s)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%-14s %10.0f %10.0f %8d %9.2f %9.2f %9.2f %9s %9s %8d\n", sc.name, r.in, r.out, r.drops,
		ms(r.p50), ms(r.p99), ms(r.max), r.cpuPer(r.sent), r.cpuPer(r.received), r.rss>>20)
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func clientTLS(files [3]string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(files[1], files[2])
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(files[0])
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("-ca: no certificate in it")
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool}, nil
}

// startServer runs this program again, as the server.
func startServer(files [3]string) (addr string, cmd *exec.Cmd, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	cmd = exec.Command(self)
	cmd.Env = append(os.Environ(), serverEnv+"="+strings.Join(files[:], ","))
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	if _, err := fmt.Fscan(pipe, &addr); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return "", nil, fmt.Errorf("the server did not start: %w", err)
	}
	return addr, cmd, nil
}
