package drain

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A test binary with this variable is in a network of its own, whose loopback it
// may take down: then no packet arrives, and nobody is told.
const alone = "LOGGREGATOR_TEST_ALONE"

// TestT06T07PeerVanishes loses the network, without a FIN or RST, while lines
// flow and while none do.
func TestT06T07PeerVanishes(t *testing.T) {
	if os.Getenv(alone) != "" || testing.Short() {
		t.Skip("takes half a minute")
	}
	var wg sync.WaitGroup
	var denied atomic.Bool
	for _, name := range []string{"TestAloneFlowing", "TestAloneIdle"} {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^"+name+"$", "-test.v")
			cmd.Env = append(os.Environ(), alone+"=1")
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			}
			output, err := cmd.CombinedOutput()
			if err != nil && strings.Contains(err.Error(), "operation not permitted") {
				denied.Store(true)
			} else if err != nil {
				t.Errorf("%v: %s", err, output)
			} else {
				t.Logf("%s", output)
			}
		})
	}
	wg.Wait()
	if denied.Load() {
		t.Skip("a network of its own is not allowed here")
	}
}

// loopback takes the loopback interface up or down.
func loopback(t *testing.T, up bool) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	r.SetUint16(0)
	if up {
		r.SetUint16(unix.IFF_UP)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r); err != nil {
		t.Fatal(err)
	}
}

// vanishing runs a drain whose receiver vanishes, and gives how long it took to
// notice.
func vanishing(t *testing.T, flowing bool) time.Duration {
	if os.Getenv(alone) == "" {
		t.Skip("is run by TestT06T07PeerVanishes")
	}
	loopback(t, true)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100_000)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go readAll(c, lines)
		}
	}()
	src := newMemory()
	d := open(t, "syslog://"+ln.Addr().String(), src, &Options{Backoff: func(int) time.Duration { return 50 * time.Millisecond }})
	n := 0
	more := func(k int) {
		src.lines(1, n, n+k)
		n += k
	}
	for range 100 {
		more(10)
		time.Sleep(2 * time.Millisecond)
	}
	for d.Stats().Delivered < uint64(n) {
		time.Sleep(time.Millisecond)
	}
	loopback(t, false)
	start := time.Now()
	for d.Stats().Failures == 0 && time.Since(start) < time.Minute {
		if flowing {
			more(1)
		}
		time.Sleep(10 * time.Millisecond)
	}
	took := time.Since(start)
	loopback(t, true)
	more(100)
	if err := d.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	conserve(t, d.Stats(), uint64(n))
	seen := map[string]bool{}
	for len(seen) < n {
		select {
		case m := <-lines:
			seen[m[strings.LastIndex(m, "seq="):]] = true
		case <-time.After(10 * time.Second):
			t.Fatalf("%d lines of %d arrived: %+v", len(seen), n, d.Stats())
		}
	}
	fmt.Printf("noticed after %v; %+v\n", took, d.Stats())
	return took
}

func TestAloneFlowing(t *testing.T) {
	if took := vanishing(t, true); took > 30*time.Second {
		t.Errorf("noticed after %v", took)
	}
}

func TestAloneIdle(t *testing.T) {
	if took := vanishing(t, false); took > 30*time.Second {
		t.Errorf("noticed after %v", took)
	}
}
