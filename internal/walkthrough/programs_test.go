package walkthrough

import (
	"bufio"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// programEnv names the program as which the test binary starts: the programs
// whose output is collected know nothing of Loggregator.
const programEnv = "WALKTHROUGH_PROGRAM"

func TestMain(m *testing.M) {
	program := os.Getenv(programEnv)
	if program == "" {
		os.Exit(m.Run())
	}
	name, arg, _ := strings.Cut(program, " ")
	switch name {
	case "web":
		web(arg)
	case "printer":
		printer(arg)
	case "paced":
		paced(arg)
	case "odd":
		odd()
	}
}

// web is a web server that logs each request on standard error, until SIGTERM.
func web(addr string) {
	access := log.New(os.Stderr, "", 0)
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		access.Printf("%s %s", r.Method, r.URL.Path)
	})
	go func() { log.Fatal(http.ListenAndServe(addr, nil)) }()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	fmt.Print("bye") // no final newline
	os.Exit(7)
}

func numbered(i int) string { return fmt.Sprintf("line %d %s", i, strings.Repeat("x", 180)) }

// printer prints numbered lines as fast as it can.
func printer(arg string) {
	n, _ := strconv.Atoi(arg)
	out := bufio.NewWriterSize(os.Stdout, 64<<10)
	for i := range n {
		fmt.Fprintln(out, numbered(i))
	}
	out.Flush()
}

// paced prints n lines, rate a second, with one write each, and then on standard
// error how long the slowest write took.
func paced(arg string) {
	var n, rate int
	fmt.Sscan(arg, &n, &rate)
	start := time.Now()
	slowest := time.Duration(0)
	tick := time.NewTicker(time.Millisecond)
	for i := 0; i < n; {
		<-tick.C
		for due := int(time.Since(start).Seconds() * float64(rate)); i < min(due, n); i++ {
			before := time.Now()
			fmt.Fprintf(os.Stdout, "%s\n", numbered(i))
			slowest = max(slowest, time.Since(before))
		}
	}
	fmt.Fprintf(os.Stderr, "slowest write %v\n", slowest)
}

// The lines of odd.
var (
	oddOut = []string{
		"first", "", "", "日本語 and 😀 and a\ttab", strings.Repeat("long é ", 50_000/8), "<14>1 - - - - - - not a header",
		`quotes " and ] and \`, " spaces around ", "\x1b[31mred\x1b[0m", "no newline after this",
	}
	oddErr = []string{"", "to stderr", "again, ½"}
)

func odd() {
	fmt.Fprint(os.Stdout, strings.Join(oddOut, "\n"))
	fmt.Fprint(os.Stderr, strings.Join(oddErr, "\n")+"\n")
}

func TestLongLineIsLong(t *testing.T) {
	if n := len(oddOut[4]); n < 50_000 {
		t.Fatalf("the long line has %d bytes", n)
	}
}
