//go:build unix

package main

import (
	"os"
	"os/signal"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// brokenStatus is that of a program whose reader has gone.
const brokenStatus = statusSignal + int(syscall.SIGPIPE)

// forwarded are the signals that go to the program. Those that were ignored when
// the agent was started, as by nohup, stay ignored by both. SIGPIPE is among
// them because its default would end the agent when the user's pipe ends.
func forwarded() []os.Signal {
	all := []os.Signal{
		syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGWINCH, syscall.SIGCONT, syscall.SIGTSTP, syscall.SIGPIPE,
	}
	return slices.DeleteFunc(all, func(s os.Signal) bool { return s != syscall.SIGPIPE && signal.Ignored(s) })
}

// ends reports whether the signal is meant to end a program.
func ends(sig os.Signal) bool {
	switch sig {
	case syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT:
		return true
	}
	return false
}

// forward gives signals to the program until stop is closed, and reports whether
// one of them was meant to end it.
func forward(signals <-chan os.Signal, stop <-chan struct{}, program *os.Process) (ended bool) {
	for {
		select {
		case <-stop:
			return ended
		case sig := <-signals:
			if sig == syscall.SIGPIPE {
				continue
			}
			ended = ended || ends(sig)
			if !fromTerminal(sig) {
				program.Signal(sig) // fails only if the program has ended
			}
			if sig == syscall.SIGTSTP {
				// Being stopped is what the shell waits for to see.
				syscall.Kill(os.Getpid(), syscall.SIGSTOP)
			}
		}
	}
}

// fromTerminal reports whether the terminal has sent the signal to the program
// already. A terminal signals all processes in the foreground, and programs take
// a second SIGINT for impatience.
func fromTerminal(sig os.Signal) bool {
	switch sig {
	case syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGWINCH:
	default:
		return false
	}
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	foreground, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && foreground == unix.Getpgrp()
}

// hasTerminal reports whether the process has a controlling terminal.
func hasTerminal() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	tty.Close()
	return true
}

// procAttr puts the program into a process group of its own where there is no
// terminal: whoever signals the agent's whole group, as timeout(1) does, would
// reach it twice otherwise. On a terminal it shares the agent's group, or it
// could not read from the terminal.
func procAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: !hasTerminal()}
	dieWithParent(attr)
	return attr
}

func exitStatus(state *os.ProcessState) int {
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return statusSignal + int(ws.Signal())
	}
	return state.ExitCode()
}

func signalStatus(sig os.Signal) int { return statusSignal + int(sig.(syscall.Signal)) }
