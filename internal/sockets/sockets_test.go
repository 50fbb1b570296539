package sockets_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/sockets"
)

// lines gives the lines that are written, "source/instance stream text".
func lines() (envelope.Writer, chan string) {
	c := make(chan string, 1000)
	return envelope.WriterFunc(func(_ context.Context, b envelope.Batch) error {
		for e, err := range b.All() {
			if err != nil {
				return err
			}
			r, err := e.Route()
			if err != nil {
				return err
			}
			c <- fmt.Sprintf("%s/%s %s %s", r.SourceID, r.InstanceID, r.LogType, r.Payload)
		}
		return nil
	}), c
}

func expect(t *testing.T, got chan string, want ...string) {
	t.Helper()
	left := make(map[string]int)
	for _, s := range want {
		left[s]++
	}
	for range want {
		select {
		case s := <-got:
			if left[s]--; left[s] < 0 {
				t.Errorf("got %q, want %q", s, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("waiting for %v", left)
		}
	}
}

// instance is a container's sockets.
func instance(t *testing.T, dir string) (stdout, stderr net.Listener) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var pair [2]net.Listener
	for i, name := range []string{sockets.Stdout, sockets.Stderr} {
		ln, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { ln.Close() })
		pair[i] = ln
	}
	return pair[0], pair[1]
}

func accept(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	ln.(*net.UnixListener).SetDeadline(time.Now().Add(10 * time.Second))
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestInstances(t *testing.T) {
	dir, err := os.MkdirTemp("", "s") // paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file := filepath.Join(dir, "instances.json")
	write := func(states ...string) {
		var all []map[string]any
		for i, state := range states {
			all = append(all, map[string]any{
				"application_id": "shop", "warden_job_id": i + 1, "warden_container_path": dir,
				"instance_index": i, "state": state, "syslog_drain_urls": []string{},
			})
		}
		staging := []map[string]any{
			{"staging_message": map[string]any{"app_id": "shop"}, "warden_job_id": 9, "warden_container_path": dir},
			{"staging_message": map[string]any{"app_id": "early"}, "warden_job_id": 0, "warden_container_path": dir},
		}
		data, err := json.Marshal(map[string]any{"time": 1.5, "instances": all, "staging_tasks": staging})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out1, err1 := instance(t, filepath.Join(dir, "jobs", "1"))
	outStaging, _ := instance(t, filepath.Join(dir, "jobs", "9"))

	w, got := lines()
	r := sockets.New(func() ([]sockets.Target, error) {
		return sockets.Instances(file, func(app, instance, sourceType string) (envelope.Identity, error) {
			return envelope.Identity{SourceID: app, InstanceID: sourceType + instance}, nil
		})
	}, w, &sockets.Options{Poll: 5 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })

	write("RUNNING", "STARTING") // after the reader
	out, errs := accept(t, out1), accept(t, err1)
	io.WriteString(out, "one\ntwo\nthr")
	io.WriteString(errs, "oops\n")
	io.WriteString(accept(t, outStaging), "compiling\n")
	expect(t, got, "shop/APP0 OUT one", "shop/APP0 OUT two", "shop/APP0 ERR oops", "shop/STG OUT compiling")
	io.WriteString(out, "ee\nfour")
	out.Close() // the end of a stream is the end of a line
	expect(t, got, "shop/APP0 OUT three", "shop/APP0 OUT four")
	out = accept(t, out1) // and it is dialled again
	io.WriteString(out, "again\n")
	expect(t, got, "shop/APP0 OUT again")

	out2, _ := instance(t, filepath.Join(dir, "jobs", "2"))
	write("STOPPING", "RUNNING")
	second := accept(t, out2)
	io.WriteString(second, "hello\n")
	expect(t, got, "shop/APP1 OUT hello")
	if err := os.WriteFile(file, []byte("{half"), 0o600); err != nil { // those known stay
		t.Fatal(err)
	}
	io.WriteString(second, "last")
	cancel() // what has been written is read
	running.Wait()
	expect(t, got, "shop/APP1 OUT last")
	if s := r.Stats(); s.Open != 0 || s.Bytes == 0 || s.Connects < 5 {
		t.Errorf("%+v", s)
	}
}

func TestMaxSockets(t *testing.T) {
	w, _ := lines()
	looked := make(chan struct{}, 100)
	r := sockets.New(func() (targets []sockets.Target, err error) {
		looked <- struct{}{}
		for i := range 5 {
			targets = append(targets, sockets.Target{Path: filepath.Join(t.TempDir(), fmt.Sprint(i))})
		}
		return targets, nil
	}, w, &sockets.Options{MaxSockets: 2, Poll: time.Hour})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	<-looked
	for r.Stats().Sockets == 0 {
		time.Sleep(time.Millisecond)
	}
	if s := r.Stats(); s.Sockets != 5 || s.Skipped != 3 {
		t.Errorf("%+v", s)
	}
	cancel()
	running.Wait()
}

func FuzzInstances(f *testing.F) {
	f.Add([]byte(`{"instances":[{"application_id":"a","warden_job_id":1,"warden_container_path":"/c","instance_index":0,"state":"RUNNING"}]}`))
	f.Add([]byte(`{"staging_tasks":[{"staging_message":{"app_id":"a"},"warden_job_id":0}]}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(dir, "instances.json")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		targets, err := sockets.Instances(path, func(app, _, _ string) (envelope.Identity, error) {
			return envelope.Identity{SourceID: app}, nil
		})
		if err != nil {
			return
		}
		for _, target := range targets {
			if target.Identity.SourceID == "" || target.Path == "" {
				t.Fatalf("%+v", target)
			}
		}
	})
}
