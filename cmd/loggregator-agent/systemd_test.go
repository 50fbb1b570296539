//go:build unix

package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/internal/freeport"
)

// TestDaemonUnderSystemd plays systemd: it holds the socket of syslog, so that what
// arrives while the agent is started anew waits there, and it is told how the
// agent is.
func TestDaemonUnderSystemd(t *testing.T) {
	s := newServer(t)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	socket, err := pc.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	dir, err := os.MkdirTemp("", "notify") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	notified, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notified.Close()
	heard := func(what string) {
		t.Helper()
		buf := make([]byte, 4096)
		for notified.SetReadDeadline(time.Now().Add(30 * time.Second)); ; {
			n, err := notified.Read(buf)
			if err != nil {
				t.Fatalf("not told %s: %v", what, err)
			}
			if strings.Contains(string(buf[:n]), what) {
				return
			}
		}
	}
	ops := freeport.Addr()
	d := &daemonProcess{t: t, conf: filepath.Join(t.TempDir(), "agent.yaml")}
	write := func(more string) {
		config := fmt.Sprintf("servers: [%s]\nops: %s\nsyslog:\n  - listen: udp://%s\n    app: shop\n%s", s.addr, ops, pc.LocalAddr(), more)
		if err := os.WriteFile(d.conf, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	life := func() {
		t.Helper()
		d.out = &syncBuffer{}
		d.cmd = exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, agent, "daemon", "-config", d.conf)
		d.cmd.Env = append(environment(""), "LISTEN_FDS=1", "NOTIFY_SOCKET="+filepath.Join(dir, "s"), "WATCHDOG_USEC=300000")
		d.cmd.ExtraFiles = []*os.File{socket}
		d.cmd.Stdout, d.cmd.Stderr = d.out, d.out
		if err := d.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmd := d.cmd
		t.Cleanup(func() {
			if cmd.ProcessState == nil {
				cmd.Process.Kill()
				cmd.Wait()
			}
		})
		d.says("Ctrl-C stops it")
	}
	conn, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sent := 0
	send := func() {
		for range 50 {
			fmt.Fprintf(conn, "<14>Oct 11 22:14:15 host shop: %d line", sent)
			sent++
		}
	}
	arrived := func() {
		t.Helper()
		eventually(t, func() bool { times, _ := s.tally("shop"); return len(times) == sent }, func() string { return d.out.String() })
	}
	for range 2 {
		send() // nobody is there yet
		life()
		heard("READY=1")
		heard("WATCHDOG=1")
		send()
		arrived()
		write("log: {level: debug}\ntags: {zone: z2}\n")
		d.cmd.Process.Signal(syscall.SIGHUP)
		heard("RELOADING=1")
		heard("READY=1")
		send() // the listener was opened anew
		arrived()
		resp, err := http.Get("http://" + ops + "/healthz")
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp, err)
		}
		resp.Body.Close()
		d.cmd.Process.Signal(syscall.SIGTERM)
		heard("STOPPING=1")
		if code := status(t, d.cmd.Wait()); code != 0 {
			t.Fatalf("status %d: %s", code, d.out)
		}
	}
	if times, told := s.tally("shop"); len(times) != sent || told != 0 {
		t.Errorf("%d lines of %d, told of %d", len(times), sent, told)
	}
}
