// Package pipenet is a network of net.Pipe for tests of servers, which a bubble of
// testing/synctest understands.
package pipenet

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
)

// Net is such a network: one listener, and any number of dialers.
type Net struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// New makes one.
func New() *Net { return &Net{conns: make(chan net.Conn), closed: make(chan struct{})} }

// Accept implements net.Listener.
func (n *Net) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (n *Net) Close() error {
	n.once.Do(func() { close(n.closed) })
	return nil
}

// Addr implements net.Listener.
func (n *Net) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// Dial connects, whatever the address.
func (n *Net) Dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case n.conns <- server:
		return client, nil
	case <-n.closed:
		return nil, errors.New("nobody listens")
	}
}

// Serve serves h until the test ends, and returns a client of it.
func (n *Net) Serve(t testing.TB, h http.Handler) *http.Client {
	t.Helper()
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(n) }()
	transport := &http.Transport{DialContext: n.Dial}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		srv.Close()
		<-done
	})
	return &http.Client{Transport: transport}
}
