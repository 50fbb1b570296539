package drain

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/freeport"
)

// TestRsyslog sends to the receiver most people run.
func TestRsyslog(t *testing.T) {
	const program = "/usr/sbin/rsyslogd"
	if _, err := os.Stat(program); err != nil {
		if os.Getenv("LOGGREGATOR_PEERS") == "required" {
			t.Fatal("rsyslogd is required here: ", err)
		}
		t.Skip("rsyslogd is not installed: ", err)
	}
	_, port, _ := net.SplitHostPort(freeport.Addr())
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	config := filepath.Join(dir, "rsyslog.conf")
	// The template puts what was parsed between bars, and escapes control
	// characters, the final LF among them.
	if err := os.WriteFile(config, fmt.Appendf(nil, `
global(workDirectory=%q maxMessageSize="128k" parser.escapeControlCharactersOnReceive="off")
module(load="imtcp")
template(name="parsed" type="string" string="%%hostname%%|%%app-name%%|%%procid%%|%%structured-data%%|%%msg:::drop-last-lf%%\n")
input(type="imtcp" address="127.0.0.1" port="%s")
action(type="omfile" file=%q template="parsed")
`, dir, port, out), 0o600); err != nil {
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
	t.Cleanup(func() { cmd.Process.Kill(); <-exited })

	const total = 20000
	line := func(i int) string {
		switch {
		case i == 10000:
			return "long " + strings.Repeat("é", 25000)
		case i%1000 == 1:
			return ""
		case i%3 == 0:
			return fmt.Sprintf("line %d 日本語 😀 <14>1 \\x", i)
		}
		return fmt.Sprintf("line %d", i)
	}
	src := newMemory()
	fixed := shop.Encode()
	for i := 0; i < total; i += 100 {
		var records [][]byte
		for j := i; j < i+100; j++ {
			records = append(records, envelope.AppendLog(nil, fixed, stamp, envelope.Out, []byte(line(j))))
		}
		src.append(1, records...)
	}
	d := open(t, fmt.Sprintf("syslog://127.0.0.1:%s", port), src, &Options{Backoff: func(int) time.Duration { return 50 * time.Millisecond }})
	if err := d.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	conserve(t, d.Stats(), total)
	if s := d.Stats(); s.Delivered != total || s.Resent != 0 {
		t.Errorf("%+v", s)
	}
	// All is in the kernel of the receiver; a SIGTERM makes it read and write
	// what it has, once it has taken the connection.
	deadline := time.After(30 * time.Second)
	for tick := time.Tick(20 * time.Millisecond); ; {
		if b, _ := os.ReadFile(out); strings.Count(string(b), "\n") >= total {
			break
		}
		select {
		case <-tick:
			continue
		case <-exited:
			t.Fatalf("rsyslogd ended: %s", log.String())
		case <-deadline:
		}
		break
	}
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err, log.String())
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 1<<20)
	head := `acme.prod.shop|` + shop.SourceID + `|[APP/PROC/WEB/0]|[tags@47450 app_name="shop" organization_name="acme" source_type="APP/PROC/WEB" space_name="prod"]|`
	n := 0
	for ; in.Scan(); n++ {
		msg, ok := strings.CutPrefix(in.Text(), head)
		if !ok || strings.TrimPrefix(msg, " ") != line(n) {
			t.Fatalf("line %d: %.300q, want %.100q", n, in.Text(), line(n))
		}
	}
	if n != total {
		t.Errorf("%d lines, want %d", n, total)
	}
}
