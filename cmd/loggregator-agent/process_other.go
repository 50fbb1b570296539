//go:build !unix

package main

import (
	"io"
	"os"
	"syscall"
)

const brokenStatus = 1

func forwarded() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM} }

func ends(os.Signal) bool { return true }

// forward ends the program at the first signal, which is all this system can do
// to a process.
func forward(signals <-chan os.Signal, stop <-chan struct{}, program *os.Process) (ended bool) {
	for {
		select {
		case <-stop:
			return ended
		case sig := <-signals:
			ended = true
			if sig != os.Interrupt { // the console has told the program itself
				program.Kill()
			}
		}
	}
}

func procAttr() *syscall.SysProcAttr { return nil }

func growPipe(*os.File) {}

func exitStatus(state *os.ProcessState) int { return state.ExitCode() }

func signalStatus(os.Signal) int { return statusSignal + 2 }

func unread(io.Reader) bool { return false }

func takeMemory(n int) []byte { return make([]byte, n) }

func giveMemory([]byte) {}
