package cluster

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Daemon is a process that can be ended and started again with the same
// arguments. Its methods are for one goroutine.
type Daemon struct {
	Name string
	Log  string // file of all that it ever said

	ops  string
	path string
	args []string

	cmd  *exec.Cmd
	gone chan struct{}
}

// Start starts it, if it does not run.
func (d *Daemon) Start() error {
	if d.Running() {
		return nil
	}
	log, err := os.OpenFile(d.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	d.cmd = exec.Command(d.path, d.args...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = apart()
	if err := d.cmd.Start(); err != nil {
		return err
	}
	d.gone = make(chan struct{})
	go func(cmd *exec.Cmd, gone chan struct{}) { cmd.Wait(); close(gone) }(d.cmd, d.gone)
	return nil
}

// Running reports whether the process is there.
func (d *Daemon) Running() bool {
	if d.gone == nil {
		return false
	}
	select {
	case <-d.gone:
		return false
	default:
		return true
	}
}

// Signal sends a signal, if it runs.
func (d *Daemon) Signal(s os.Signal) {
	if d.Running() {
		d.cmd.Process.Signal(s)
	}
}

// Pid is the process's number.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

// Stop ends it with s, waits for its end, and returns its exit status: -1 if a
// signal ended it. One that does not end within limit is killed, which is an
// error.
func (d *Daemon) Stop(s os.Signal, limit time.Duration) (int, error) {
	if d.gone == nil {
		return 0, nil
	}
	d.Signal(s)
	select {
	case <-d.gone:
		return d.cmd.ProcessState.ExitCode(), nil
	case <-time.After(limit):
		d.cmd.Process.Kill()
		<-d.gone
		return -1, fmt.Errorf("%s did not end within %v of %v; %s has what it said", d.Name, limit, s, d.Log)
	}
}

// Ops is the address of its operators' port.
func (d *Daemon) Ops() string { return d.ops }

// Get asks the operators' port.
func (d *Daemon) Get(path string) (body string, status int) {
	resp, err := asking.Get("http://" + d.ops + path)
	if err != nil {
		return err.Error(), 0
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b), resp.StatusCode
}

// asking does not keep connections: a process that is stopped answers none.
var asking = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// Metric is the sum of a figure over its labels, without the prefix loggregator_.
func (d *Daemon) Metric(name string) (sum float64, ok bool) {
	body, _ := d.Get("/metrics")
	for line := range strings.Lines(body) {
		rest, found := strings.CutPrefix(line, "loggregator_"+name)
		if !found || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]), 64)
		if err == nil {
			sum, ok = sum+v, true
		}
	}
	return sum, ok
}

// await waits until it is ready.
func (d *Daemon) await(limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		body, status := d.Get("/readyz")
		switch {
		case status == http.StatusOK:
			return nil
		case !d.Running():
			said, _ := os.ReadFile(d.Log)
			return fmt.Errorf("%s ended: %s", d.Name, said)
		case time.Now().After(deadline):
			return fmt.Errorf("%s is not ready after %v: %s", d.Name, limit, body)
		}
	}
}

// each does the same to several at a time.
func each(daemons []*Daemon, do func(*Daemon) error) error {
	errs := make([]error, len(daemons))
	var wg sync.WaitGroup
	for i, d := range daemons {
		wg.Go(func() { errs[i] = do(d) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
