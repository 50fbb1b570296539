package syslogin

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/internal/taken"
)

// peer finds a program that most people have, or skips.
func peer(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil { // root's programs are not always on the path
		path = "/usr/sbin/" + name
		_, err = os.Stat(path)
	}
	if err == nil {
		return path
	}
	if os.Getenv("LOGGREGATOR_PEERS") == "required" {
		t.Fatalf("%s is required here: %v", name, err)
	}
	t.Skipf("%s is not installed: %v", name, err)
	return ""
}

// listen serves one address of each kind, until the test is over.
func listen(t *testing.T) (s *Server, dst *taken.Sink, stream, datagram *net.TCPAddr, local string) {
	t.Helper()
	dst = taken.New(t)
	s = NewServer(dst, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	local = filepath.Join(t.TempDir(), "log")
	unix, err := net.ListenPacket("unixgram", local)
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(ln)
	go s.ServePacket(udp)
	go s.ServePacket(unix)
	t.Cleanup(func() {
		s.Close()
		conserve(t, s)
	})
	address := udp.LocalAddr().(*net.UDPAddr)
	return s, dst, ln.Addr().(*net.TCPAddr), &net.TCPAddr{IP: address.IP, Port: address.Port}, local
}

// TestLogger takes what logger(1) sends, in each way it can.
func TestLogger(t *testing.T) {
	program := peer(t, "logger")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	s, dst, stream, datagram, local := listen(t)
	server := func(a *net.TCPAddr) []string {
		return []string{"--server", a.IP.String(), "--port", fmt.Sprint(a.Port)}
	}
	tests := []struct {
		name string
		args []string
		host string
	}{
		{"TCP", append(server(stream), "--tcp", "--rfc5424"), host},
		{"TCP, octets", append(server(stream), "--tcp", "--rfc5424", "--octet-count"), host},
		{"TCP, RFC 3164", append(server(stream), "--tcp", "--rfc3164"), host},
		{"UDP", append(server(datagram), "--udp", "--rfc5424"), host},
		{"UDP, RFC 3164", append(server(datagram), "--udp", "--rfc3164"), host},
		{"socket", []string{"--socket", local}, "localhost"},
		{"socket, RFC 3164", []string{"--socket", local, "--rfc3164"}, host},
		{"socket, RFC 5424", []string{"--socket", local, "--rfc5424"}, host},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			args := append(test.args, "--priority", "local3.err", "--tag", "shop", "--id=17", "order 17 refused: é")
			now := time.Now()
			if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			dst.Wait(1)
			got := dst.Take()
			r := got[0]
			if len(got) != 1 || r.Source != "shop" || r.Instance != strings.SplitN(test.host, ".", 2)[0] && r.Instance != test.host || r.Stream != "ERR" || r.Text != "order 17 refused: é" {
				t.Errorf("%+v", got)
			}
			for _, tag := range []string{"severity=err", "facility=local3", "procid=17", "app_name=shop"} {
				if !strings.Contains(" "+r.Tags+" ", " "+tag+" ") {
					t.Errorf("no %s in %s", tag, r.Tags)
				}
			}
			at, err := time.Parse(time.RFC3339Nano, r.Time)
			if d := at.Sub(now); err != nil || d < -2*time.Second || d > time.Minute {
				t.Errorf("time %s, at %s", r.Time, now)
			}
		})
	}
	s.Shutdown(t.Context()) // all is counted then
	if st := s.Stats(); st.RFC5424 != 4 || st.RFC3164 != 4 || st.Messages != 8 {
		t.Errorf("%+v", st)
	}
}

// TestRsyslogForwards takes what the syslog daemon of most people forwards, in
// each of its layouts and framings.
func TestRsyslogForwards(t *testing.T) {
	program := peer(t, "rsyslogd")
	tests := []struct {
		name, protocol, framing, template string
	}{
		{"TCP", "tcp", "traditional", "RSYSLOG_TraditionalForwardFormat"},
		{"TCP, octets", "tcp", "octet-counted", "RSYSLOG_TraditionalForwardFormat"},
		{"TCP, high precision", "tcp", "traditional", "RSYSLOG_ForwardFormat"},
		{"TCP, octets, RFC 5424", "tcp", "octet-counted", "RSYSLOG_SyslogProtocol23Format"},
		{"UDP, RFC 5424", "udp", "traditional", "RSYSLOG_SyslogProtocol23Format"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, dst, stream, datagram, _ := listen(t)
			target := stream
			if test.protocol == "udp" {
				target = datagram
			}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			port := ln.Addr().(*net.TCPAddr).Port
			ln.Close()
			dir := t.TempDir()
			config := filepath.Join(dir, "rsyslog.conf")
			if err := os.WriteFile(config, fmt.Appendf(nil, `
global(workDirectory=%q maxMessageSize="64k" parser.escapeControlCharactersOnReceive="off")
module(load="imtcp")
input(type="imtcp" address="127.0.0.1" port="%d")
action(type="omfwd" target="127.0.0.1" port="%d" protocol=%q TCP_Framing=%q template=%q)
`, dir, port, target.Port, test.protocol, test.framing, test.template), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(program, "-n", "-f", config, "-i", filepath.Join(dir, "pid"))
			var log strings.Builder
			cmd.Stdout, cmd.Stderr = &log, &log
			if err := cmd.Start(); err != nil {
				t.Fatal("rsyslogd does not start: ", err)
			}
			exited := make(chan struct{})
			go func() { cmd.Wait(); close(exited) }()
			defer func() { cmd.Process.Kill(); <-exited }()

			var c net.Conn
			for deadline := time.Now().Add(20 * time.Second); c == nil; {
				if c, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil && time.Now().After(deadline) {
					t.Fatal("rsyslogd does not listen: ", log.String())
				}
				select {
				case <-exited:
					t.Fatal("rsyslogd ended: ", log.String())
				case <-time.After(10 * time.Millisecond):
				}
			}
			defer c.Close()
			total := 500
			if test.protocol == "udp" {
				total = 50 // as many as a socket has room for
			}
			text := func(i int) string {
				if i == 7 {
					return "long " + strings.Repeat("é", 10000)
				}
				return fmt.Sprintf("line %d of \"many\" [%d] é", i, i)
			}
			var all strings.Builder
			for i := range total {
				fmt.Fprintf(&all, "<%d>1 2026-02-03T04:05:06Z web-1 shop %d - - %s\n", 8*16+i%8, i%3+1, text(i))
			}
			io.WriteString(c, all.String())
			dst.Wait(total)
			for i, r := range dst.Take() {
				stream := "OUT"
				if i%8 <= 3 {
					stream = "ERR"
				}
				if r.Source != "shop" || r.Instance != "web-1" || r.Stream != stream || strings.TrimPrefix(r.Text, " ") != text(i) ||
					!strings.Contains(r.Tags, fmt.Sprintf(" procid=%d ", i%3+1)) || !strings.Contains(r.Tags, "facility=local0") {
					t.Fatalf("record %d: %.300v", i, r)
				}
				if at, err := time.Parse(time.RFC3339Nano, r.Time); err != nil || at.Month() != 2 || at.Day() != 3 || at.Second() != 6 {
					t.Fatalf("record %d: time %s", i, r.Time)
				}
			}
			s.Shutdown(t.Context()) // all is counted then
			if st := s.Stats(); st.Messages != uint64(total) || st.Unparsed != 0 || len(st.Refused) > 0 || st.Split > 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}
