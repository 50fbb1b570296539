// Package faultnet is a network in memory whose connections go wrong on
// purpose: they split, stall, fall silent, and are reset in the middle of a
// message, at byte offsets a test writes down or draws from a seed it prints.
//
// It waits on nothing but its own locks and timers, so in a testing/synctest
// bubble its waiting costs no time.
package faultnet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

// DefaultBuffer is how many bytes one direction of a connection holds before
// its writer must wait.
const DefaultBuffer = 64 << 10

// Faults is what befalls one connection. Its zero value is a good connection.
type Faults struct {
	ToServer Way
	ToClient Way
}

// Way is what befalls one direction. Offsets count the bytes that were read at
// its end; zero is never.
type Way struct {
	Buffer   int        // bytes held before the writer waits; 0 means DefaultBuffer
	Chunk    int        // a Read returns at most so many bytes
	Rand     *rand.Rand // draws each Read's size from 1 to Chunk; used under the connection's lock
	ResetAt  int64      // after so many bytes the connection is reset, both ways
	HoleAt   int64      // after so many bytes nothing arrives any more, and nobody is told
	StallAt  int64      // after so many bytes nothing arrives for StallFor
	StallFor time.Duration
}

// Random draws the faults of one connection: reads of odd sizes, and in three of
// four connections a reset within the first span bytes of one of the ways.
func Random(r *rand.Rand, span int64) Faults {
	f := Faults{
		ToServer: Way{Chunk: 1 + r.IntN(4096), Rand: rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))},
		ToClient: Way{Chunk: 1 + r.IntN(64), Rand: rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))},
	}
	switch r.IntN(4) {
	case 0, 1:
		f.ToServer.ResetAt = 1 + r.Int64N(span)
	case 2:
		f.ToClient.ResetAt = 1 + r.Int64N(span/16+1) // answers are much shorter
	}
	if r.IntN(4) == 0 {
		f.ToServer.StallAt, f.ToServer.StallFor = 1+r.Int64N(span), time.Duration(r.IntN(3000))*time.Millisecond
	}
	return f
}

// Network connects dialers to listeners by address.
type Network struct {
	// Plan says what befalls the n-th connection dialed, from 0; nil means
	// nothing. It is called by one Dial at a time.
	Plan func(n int) Faults

	mu        sync.Mutex
	listeners map[string]*Listener
	dialed    int
	conns     map[string][]*Conn       // the dialers' ends
	holes     map[string]chan struct{} // closed by Heal
}

// Swallow makes an address a black hole: connections to it fall silent both ways
// for good, and dialing it takes until the dialer's patience ends, or Heal.
func (n *Network) Swallow(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.holes == nil {
		n.holes = make(map[string]chan struct{})
	}
	if n.holes[address] == nil {
		n.holes[address] = make(chan struct{})
	}
	for _, c := range n.conns[address] {
		c.out.mute()
		c.in.mute()
	}
	delete(n.conns, address)
}

// Heal lets the address be dialed again.
func (n *Network) Heal(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if hole := n.holes[address]; hole != nil {
		close(hole)
		delete(n.holes, address)
	}
}

// Reset tears all connections to an address.
func (n *Network) Reset(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns[address] {
		c.Reset()
	}
	delete(n.conns, address)
}

// Replan changes Plan while the network is in use.
func (n *Network) Replan(plan func(n int) Faults) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.Plan = plan
}

// Dialed is how many connections have been made.
func (n *Network) Dialed() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dialed
}

// Listen begins to accept at address. It fails if somebody does already.
func (n *Network) Listen(address string) (*Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[address] != nil {
		return nil, fmt.Errorf("faultnet: listen %s: %w", address, syscall.EADDRINUSE)
	}
	l := &Listener{network: n, addr: addr(address), backlog: make(chan *Conn, 128), closed: make(chan struct{})}
	if n.listeners == nil {
		n.listeners = make(map[string]*Listener)
	}
	n.listeners[address] = l
	return l, nil
}

// DialContext connects to a listener, at once or not at all.
func (n *Network) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n.mu.Lock()
	for hole := n.holes[address]; hole != nil; hole = n.holes[address] {
		n.mu.Unlock()
		select {
		case <-hole:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		n.mu.Lock()
	}
	defer n.mu.Unlock()
	l := n.listeners[address]
	if l == nil {
		return nil, fmt.Errorf("faultnet: dial %s: %w", address, syscall.ECONNREFUSED)
	}
	var f Faults
	if n.Plan != nil {
		f = n.Plan(n.dialed)
	}
	client, server := pipe(f, fmt.Sprintf("dialer-%d", n.dialed), address)
	n.dialed++
	select {
	case l.backlog <- server:
		if n.conns == nil {
			n.conns = make(map[string][]*Conn)
		}
		n.conns[address] = append(slices.DeleteFunc(n.conns[address], (*Conn).over), client)
		return client, nil
	default:
		return nil, fmt.Errorf("faultnet: dial %s: backlog full: %w", address, syscall.ECONNREFUSED)
	}
}

// Listener accepts the connections dialed to one address of a Network.
type Listener struct {
	network *Network
	addr    addr
	backlog chan *Conn
	closed  chan struct{}
}

func (l *Listener) Addr() net.Addr { return l.addr }

func (l *Listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close frees the address. Connections nobody accepted are reset.
func (l *Listener) Close() error {
	l.network.mu.Lock()
	defer l.network.mu.Unlock()
	if l.network.listeners[string(l.addr)] != l {
		return net.ErrClosed
	}
	delete(l.network.listeners, string(l.addr))
	close(l.closed)
	for {
		select {
		case c := <-l.backlog:
			c.Reset()
		default:
			return nil
		}
	}
}
