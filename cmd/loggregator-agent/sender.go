package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport"
)

// sender is the way of the lines: emitter, ring, link to a server.
type sender struct {
	*emitter.Emitter
	router *loggregator.Router
	server string
	link   link

	started time.Time
}

// keep is how long a line may wait for the server: as long as there is memory.
const keep = 30 * 24 * time.Hour

func newSender(set *settings, id envelope.Identity, log *slog.Logger) (*sender, error) {
	files := set.tls
	files.Logger = log
	current, err := files.Client()
	if err != nil {
		return nil, err
	}
	router := loggregator.New(&loggregator.Options{Budget: set.budget, MaxAge: keep})
	s := &sender{
		Emitter: emitter.New(router, id, nil),
		router:  router,
		server:  set.server,
		started: time.Now(),
	}
	opts := &transport.LinkOptions{CurrentTLS: current, Reason: envelope.ReasonEmitter, Logger: log}
	if s.link, err = newLink(set.server, router, opts); err != nil {
		router.Close()
		return nil, err
	}
	return s, nil
}

// A server that was not there all the time is waited for so long at the end. The
// user should not wait for somebody who does not come.
const unreached = 250 * time.Millisecond

// finish hands over what is left, for at most timeout, and returns an error
// that says how many lines were not delivered, if any.
func (s *sender) finish(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if !s.reached() {
		t := time.AfterFunc(unreached, func() {
			if !s.reached() {
				cancel()
			}
		})
		defer t.Stop()
	}
	s.Emitter.Close()
	err := s.link.Flush(ctx)
	s.link.Close()
	link, lines := s.link.Stats(), s.Stats()
	s.router.Close()

	// What is not acknowledged is left in memory, or was given up there.
	made := lines.Accepted + lines.Refused
	if link.Acked >= made {
		return nil
	}
	why := err
	switch {
	case err == nil:
		why = errors.New("there was no memory for more, see -budget")
	case link.LastError != "" && !link.Connected:
		why = errors.New(link.LastError)
	}
	return fmt.Errorf("%d of %d lines were not delivered to %s: %w", made-link.Acked, made, s.server, why)
}

// paced is a log that is not written faster than the server takes it.
type paced struct {
	io.WriteCloser
	send *sender
}

func (p paced) Write(b []byte) (int, error) {
	for p.send.behind() {
		ctx, cancel := context.WithTimeout(context.Background(), unreached)
		p.send.link.Flush(ctx)
		cancel()
	}
	return p.WriteCloser.Write(b)
}

// behind reports whether the server is there, or may be about to, and the lines
// that it has not acknowledged take more than half of the memory.
func (s *sender) behind() bool {
	link, router := s.link.Stats(), s.router.Stats()
	if router.Held == 0 || !link.Connected && (s.reached() || time.Since(s.started) > unreached) {
		return false
	}
	waiting := float64(router.Accepted - min(router.Accepted, link.Acked))
	return waiting*float64(router.Used)/float64(router.Held) > float64(router.Budget)/2
}

// reached reports whether the server was there at any time.
func (s *sender) reached() bool {
	st := s.link.Stats()
	return st.Connected || st.Sent > 0 || st.Reconnects > 0
}
