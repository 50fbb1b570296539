package main

import (
	"bufio"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTerminal: Ctrl-C on a terminal reaches the agent and the program, and the
// program once; so does Ctrl-\.
func TestTerminal(t *testing.T) {
	t.Parallel()
	keyboard, terminal := openTerminal(t)
	cmd := agentCommand(t, "signals", []string{"--app", "shop", "--server", newServer(t).addr})
	cmd.Stdin, cmd.Stderr = terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	out := bufio.NewReader(pipe)
	expect := func(want string) {
		t.Helper()
		if line, err := out.ReadString('\n'); line != want+"\n" {
			t.Fatalf("got %q, %v, want %q", line, err, want)
		}
	}
	expect("ready")
	keyboard.WriteString("\x03")
	expect("interrupt")
	keyboard.WriteString("\x1c")
	expect("quit")
	keyboard.WriteString("\x03")
	expect("interrupt")
	cmd.Process.Signal(syscall.SIGTERM) // not from the terminal
	expect("terminated")
	if rest, _ := out.ReadString('\n'); rest != "" {
		t.Errorf("got %q", rest)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// openTerminal makes a pseudo terminal: what is written to keyboard is typed at
// terminal.
func openTerminal(t *testing.T) (keyboard, terminal *os.File) {
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keyboard.Close() })
	fd := int(keyboard.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return keyboard, terminal
}

// TestSettleStarved: what is still in the pipe is not taken for silence.
func TestSettleStarved(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close() // held open by a process left behind
	w.WriteString("last words")
	log := &memory{}
	p := newPump(r, log, nil, func(err error) { t.Error(err) })
	time.AfterFunc(2*silence, p.run) // it gets to run only now
	p.settle(false)
	if log.String() != "last words" {
		t.Errorf("log %q", log.String())
	}
	r.Close()
	<-p.done
}
