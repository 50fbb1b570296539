package walkthrough

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/internal/freeport"
)

// printed is what the programs of the benchmarks print: lines of about 190
// bytes.
const printed = 100_000

// alone is how long the printer takes with nobody behind its output.
func alone(b *testing.B) time.Duration {
	return timed(b, exec.Command(os.Args[0]))
}

func timed(b *testing.B, cmd *exec.Cmd) time.Duration {
	b.Helper()
	cmd.Env = append(os.Environ(), programEnv+"=printer "+strconv.Itoa(printed))
	start := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

// linesIn reports, each time it is called, whether a file that grows has n lines
// by now. It reads what was appended, once.
func linesIn(file string, n int) func() bool {
	f, err := os.Open(file)
	buf := make([]byte, 1<<20)
	return func() bool {
		for err == nil {
			var k int
			k, err = f.Read(buf)
			n -= bytes.Count(buf[:k], []byte("\n"))
		}
		if err == io.EOF {
			err = nil
		}
		if n <= 0 {
			f.Close()
		}
		return n <= 0
	}
}

// BenchmarkProgramToTail measures how long it takes from the start of a program
// that prints 100,000 lines as fast as it can to the last of them on the
// standard output of a cf-logs that follows, and how much more that is than the
// program alone takes.
func BenchmarkProgramToTail(b *testing.B) {
	var extra time.Duration
	lost := 0
	for b.Loop() {
		b.StopTimer()
		w := newWorld(b)
		w.serve()
		tail := w.follow("tail", "--space=prod")
		b.StartTimer()
		start := time.Now()
		program := w.agent("printer", "prod", "printer "+strconv.Itoa(printed), "-quiet")
		until(b, 60*time.Second, "last line", linesIn(tail.out.Name(), printed))
		took := time.Since(start)
		b.StopTimer()
		program.wait(10 * time.Second)
		extra += took - alone(b)
		lost += w.metric("records_missed_total")
		for _, p := range []*process{tail, w.server} {
			p.signal(os.Interrupt)
			p.wait(10 * time.Second)
		}
		b.StartTimer()
	}
	b.ReportMetric(extra.Seconds()/float64(b.N), "extra-s/op")
	b.ReportMetric(float64(lost), "lost")
}

// BenchmarkChain sends 1,000,000 lines of about 190 bytes from a file through
// agent, server and a cf-logs that follows, three processes, and reports how many
// arrive a second and what processor time all three take.
func BenchmarkChain(b *testing.B) {
	const lines = 1_000_000
	file := filepath.Join(b.TempDir(), "lines")
	f, err := os.Create(file)
	if err != nil {
		b.Fatal(err)
	}
	out := bufio.NewWriter(f)
	for i := range lines {
		fmt.Fprintln(out, numbered(i))
	}
	if err := errors.Join(out.Flush(), f.Close()); err != nil {
		b.Fatal(err)
	}
	var cpu time.Duration
	lost := 0
	for b.Loop() {
		b.StopTimer()
		w := newWorld(b)
		w.serve()
		tail := w.follow("tail", "--space=prod")
		in, err := os.Open(file)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		agent := exec.Command(w.bin+"/loggregator-agent", "run", "-server", "tcp://"+w.ingest, "-app", "printer", "-space", "prod", "-quiet", "-")
		agent.Stdin = in
		if out, err := agent.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		until(b, 60*time.Second, "last line", linesIn(tail.out.Name(), lines))
		b.StopTimer()
		in.Close()
		lost += w.metric("records_missed_total")
		cpu += agent.ProcessState.UserTime() + agent.ProcessState.SystemTime()
		for _, p := range []*process{tail, w.server} {
			p.signal(os.Interrupt)
			p.wait(10 * time.Second)
			cpu += p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
		}
		b.StartTimer()
	}
	b.ReportMetric(lines*float64(b.N)/b.Elapsed().Seconds(), "lines/s")
	b.ReportMetric(cpu.Seconds()/float64(b.N)/lines*1e6, "cpu-s/M")
	b.ReportMetric(float64(lost), "lost")
}

// BenchmarkRun measures the program under the agent beside the program in a pipe
// to cat, in turn: with the server there, with nobody there, and with a server
// that takes connections and never reads. What the least costs that can be done
// with lines to keep them, which is cat into a file in memory, is measured too.
func BenchmarkRun(b *testing.B) {
	w := newWorld(b)
	w.serve()
	hung := freeport.Addr()
	ln := listen(b, hung)
	defer ln.Close()
	for name, server := range map[string]string{"up": w.ingest, "down": freeport.Addr(), "hung": hung} {
		b.Run("server="+name, func(b *testing.B) {
			var agent, cat, keep time.Duration
			kept := inMemory(b)
			for b.Loop() {
				cat += timed(b, exec.Command("sh", "-c", `"$0" | cat >/dev/null`, os.Args[0]))
				keep += timed(b, exec.Command("sh", "-c", `"$0" | cat >"$1"`, os.Args[0], kept))
				os.Remove(kept)
				// The agent's own end, at which it hands over what is left, is after
				// the program's: the program says how long it took.
				agent += inAgent(b, w, server)
			}
			b.ReportMetric(agent.Seconds()/float64(b.N), "agent-s/op")
			b.ReportMetric(cat.Seconds()/float64(b.N), "cat-s/op")
			b.ReportMetric(agent.Seconds()/cat.Seconds(), "agent/cat")
			b.ReportMetric(keep.Seconds()/cat.Seconds(), "keep/cat")
		})
	}
}

// inMemory is the name of a file in memory, where the system has such.
func inMemory(b *testing.B) string {
	dir, err := os.MkdirTemp("/dev/shm", "loggregator-")
	if err != nil {
		return b.TempDir() + "/kept"
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir + "/kept"
}

// inAgent runs the printer under the agent and returns how long the printer
// itself took from the agent's start.
func inAgent(b *testing.B, w *world, server string) time.Duration {
	b.Helper()
	stamp := b.TempDir() + "/ended"
	cmd := exec.Command(w.bin+"/loggregator-agent", "run", "-server", "tcp://"+server, "-app", "printer", "-quiet", "-flush-timeout", "10ms",
		"--", "sh", "-c", `"$0"; date +%s%N >"$1"`, os.Args[0], stamp)
	cmd.Env = append(os.Environ(), programEnv+"=printer "+strconv.Itoa(printed))
	start := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatal(err)
	}
	text, err := os.ReadFile(stamp)
	if err != nil {
		b.Fatal(err)
	}
	ns, err := strconv.ParseInt(string(text[:len(text)-1]), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return time.Unix(0, ns).Sub(start)
}
