//go:build unix

package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/freeport"
)

// peer is the path of a program that this test is made with.
func peer(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + program); err == nil {
			return path
		}
		if os.Getenv("LOGGREGATOR_PEERS") == "required" {
			t.Fatalf("%s is required: %v", program, err)
		}
		t.Skipf("%s is not installed", program)
	}
	return path
}

// TestLogger: what logger(1) sends in each of its ways arrives.
func TestLogger(t *testing.T) {
	logger := peer(t, "logger")
	s := newServer(t)
	dir, err := os.MkdirTemp("", "d")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	addr := freeport.Addr()
	host, port, _ := strings.Cut(addr, ":")
	d := startDaemon(t, fmt.Sprintf(`
servers: %s
syslog:
  - listen: udp://%s
  - listen: tcp://%[2]s
  - listen: unixgram://%[3]s/log
`, s.addr, addr, dir))
	ways := [][]string{
		{"-n", host, "-P", port, "-d"},
		{"-n", host, "-P", port, "-d", "--rfc3164"},
		{"-n", host, "-P", port, "-T"},
		{"-n", host, "-P", port, "-T", "--octet-count"},
		{"-u", dir + "/log", "-d"},
	}
	for i, way := range ways {
		args := append(way, "-t", fmt.Sprint("program", i), "-p", "user.err", fmt.Sprint("message ", i))
		if out, err := exec.Command(logger, args...).CombinedOutput(); err != nil {
			t.Errorf("logger %q: %v: %s", args, err, out)
		}
	}
	for i := range ways {
		want := fmt.Sprint("message ", i)
		eventually(t, func() bool { return strings.Contains(strings.Join(s.lines(envelope.Err), "\n"), want) }, func() string {
			return fmt.Sprintf("%q; %s", s.lines(envelope.Err), d.out)
		})
	}
	if code := d.end(syscall.SIGTERM); code != 0 {
		t.Errorf("status %d: %s", code, d.out)
	}
}

// TestLogrotate: what logrotate(8) makes of a log, renamed and compressed later,
// or copied and truncated, arrives once each.
func TestLogrotate(t *testing.T) {
	logrotate := peer(t, "logrotate")
	for _, way := range []struct {
		rules  string
		rounds int
		pause  time.Duration
		seen   bool // each file is read before it goes
	}{
		{"create\ncompress\ndelaycompress", 10, 0, false},
		{"copytruncate", 10, 0, false},
		{"create\ndateext\ndateformat -%Y%m%d-%s", 3, time.Second + 50*time.Millisecond, false}, // a name a second
		{"create\nolddir old", 10, 0, true},                                                     // found only while it is where it was
	} {
		t.Run(strings.ReplaceAll(way.rules, "\n", ","), func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o755); err != nil { // or it refuses
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(dir, "old"), 0o755); err != nil {
				t.Fatal(err)
			}
			a := &appender{t: t, path: filepath.Join(dir, "shop.log")}
			conf := filepath.Join(dir, "logrotate.conf")
			su := ""
			if os.Getuid() == 0 {
				su = "su root root"
			}
			rules := fmt.Sprintf("%s {\n%s\nrotate 100\n%s\n}\n", a.path, su, way.rules)
			if err := os.WriteFile(conf, []byte(rules), 0o644); err != nil {
				t.Fatal(err)
			}
			a.write(1)
			d := startDaemon(t, fmt.Sprintf("servers: %s\nstate: %s/state\nfiles:\n  - paths: %[2]s/{app}.log\n", s.addr, dir))
			for round := range way.rounds {
				a.write(100*round + 1)
				if way.seen {
					eventually(t, func() bool { times, _ := s.tally("shop"); return len(times) >= a.next }, d.out.String)
				}
				time.Sleep(way.pause + time.Duration(round%3)*20*time.Millisecond)
				if out, err := exec.Command(logrotate, "-f", "-s", filepath.Join(dir, "status"), conf).CombinedOutput(); err != nil {
					t.Fatalf("logrotate: %v: %s", err, out)
				}
			}
			a.write(1)
			eventually(t, func() bool { times, _ := s.tally("shop"); return len(times) >= a.next }, func() string {
				times, _ := s.tally("shop")
				return fmt.Sprintf("%d of %d; %s", len(times), a.next, d.out)
			})
			d.end(syscall.SIGTERM)
			times, told := s.tally("shop")
			for n, k := range times {
				if k != 1 {
					t.Errorf("line %d came %d times", n, k)
				}
			}
			if told > 0 {
				t.Errorf("told of %d missing", told)
			}
		})
	}
}

// TestWebServer: nginx's access log, which logrotate(8) rotates while requests
// come in, arrives line by line, once.
func TestWebServer(t *testing.T) {
	nginx, logrotate := peer(t, "nginx"), peer(t, "logrotate")
	s := newServer(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // or logrotate refuses
		t.Fatal(err)
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	addr := freeport.Addr()
	user, su := "", ""
	if os.Getuid() == 0 {
		user, su = "user root;", "su root root"
	}
	conf := write("nginx.conf", fmt.Sprintf(`
%s daemon off; pid %s/pid; error_log %[2]s/error.log; events {}
http {
	log_format numbered '$arg_n $remote_addr "$request" $status';
	access_log %[2]s/web.log numbered;
	client_body_temp_path %[2]s/t1; proxy_temp_path %[2]s/t2; fastcgi_temp_path %[2]s/t3; uwsgi_temp_path %[2]s/t4; scgi_temp_path %[2]s/t5;
	server { listen %[3]s; location / { return 204; } }
}
`, user, dir, addr))
	rules := write("logrotate.conf", fmt.Sprintf(`
%s/web.log {
	%s
	rotate 100
	create
	compress
	delaycompress
	postrotate
		kill -USR1 $(cat %[1]s/pid)
	endscript
}
`, dir, su))
	web := exec.Command(nginx, "-c", conf, "-p", dir)
	web.Stderr = os.Stderr
	if err := web.Start(); err != nil {
		t.Fatal(err)
	}
	stop := func() {
		web.Process.Signal(syscall.SIGQUIT) // lets requests finish
		web.Wait()
	}
	t.Cleanup(stop)
	d := startDaemon(t, fmt.Sprintf("servers: %s\nstate: %s/state\nfiles:\n  - paths: %[2]s/{app}.log\n", s.addr, dir))
	eventually(t, func() bool { _, err := http.Get("http://" + addr + "/?n=0"); return err == nil }, d.out.String)
	n := 1
	for range 10 {
		for range 100 {
			resp, err := http.Get(fmt.Sprintf("http://%s/?n=%d", addr, n))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			n++
		}
		if out, err := exec.Command(logrotate, "-f", "-s", filepath.Join(dir, "status"), rules).CombinedOutput(); err != nil {
			t.Fatalf("logrotate: %v: %s", err, out)
		}
	}
	stop()
	eventually(t, func() bool { times, _ := s.tally("web"); return len(times) >= n }, func() string {
		times, _ := s.tally("web")
		return fmt.Sprintf("%d of %d; %s", len(times), n, d.out)
	})
	d.end(syscall.SIGTERM)
	times, told := s.tally("web")
	for i := range n {
		if times[i] != 1 {
			t.Errorf("request %d came %d times", i, times[i])
		}
	}
	if told > 0 || len(times) != n {
		t.Errorf("%d requests of %d, told of %d missing", len(times), n, told)
	}
}
