package ringbuf_test

import (
	"os"
	"os/exec"
	"testing"
)

// children are what this test program does instead of testing when a test starts
// it as a process of its own.
var children = map[string]func(arg string){}

const childEnv, childArg = "RINGBUF_TEST_CHILD", "RINGBUF_TEST_ARG"

func TestMain(m *testing.M) {
	if run := children[os.Getenv(childEnv)]; run != nil {
		run(os.Getenv(childArg))
		return
	}
	os.Exit(m.Run())
}

// child is such a process, not started yet.
func child(t *testing.T, name, arg string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self)
	c.Env = append(os.Environ(), childEnv+"="+name, childArg+"="+arg)
	c.Stderr = os.Stderr
	return c
}
