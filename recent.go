package loggregator

import (
	"fmt"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/ringbuf"
)

// Open is New for a Router with a directory (Options.Dir), which may not be
// usable: then it fails with an error that says what to do. What is in the
// directory is there for readers at once, and a cursor from before goes on where
// it stood.
func Open(o *Options) (*Router, error) {
	if o == nil {
		o = &Options{}
	}
	budget, maxAge := o.Budget, o.MaxAge
	if budget != 0 {
		budget = max(budget, ringbuf.MinBudget)
	}
	if maxAge <= 0 {
		maxAge = ringbuf.DefaultMaxAge
	}
	store, err := ringbuf.New(&ringbuf.Options{Budget: budget, MaxAge: maxAge, Dir: o.Dir})
	if err != nil {
		return nil, fmt.Errorf("loggregator: %w", err)
	}
	r := &Router{
		store:   store,
		maxAge:  maxAge,
		sources: make(map[string]*source),
		subs:    make(map[*subscription]struct{}),
		wanted:  make(map[key]map[*subscription]struct{}),
		groups:  make(map[string]*group),
		ending:  make(chan struct{}),
		done:    make(chan struct{}),
		gone:    make(chan struct{}),
	}
	r.late.wake = make(chan struct{}, 1)
	for ring := range store.Rings() {
		r.relearn(ring)
	}
	r.wg.Go(r.housekeeping)
	return r, nil
}

// Recovery is what a Router with a directory found there when it was opened.
func (r *Router) Recovery() ringbuf.Recovery { return r.store.Recovery() }

// relearned is how many of its newest records tell where a source belongs: an
// application's parts do not all say everything.
const relearned = 20

// relearn makes a source of a ring that the Store found in its directory. One
// without records is known by its id until it speaks.
func (r *Router) relearn(ring *ringbuf.Ring) {
	src := &source{r: r, id: ring.Key(), ring: ring}
	src.place.Store(&placed{})
	ring.Adopt(src)
	r.sources[src.id] = src
	first, next := ring.Bounds()
	at := ring.Reader(max(first, next-min(next, relearned)))
	var p place
	var route envelope.Route
	var last []byte // record of which that is the route
	for b := at.Read(nil); b.Count > 0; b = at.Read(nil) {
		for rest := b.Records; len(rest) > 0; {
			e, tail, err := envelope.Next(rest)
			if err != nil {
				break
			}
			record := rest[:len(rest)-len(tail)]
			if read, err := e.Check(nil); err == nil && string(read.SourceID) == src.id {
				p, route, last = placeOf(p, record), read, record
			}
			rest = tail
		}
	}
	if last != nil {
		r.place(src, p, &route, last)
	}
}
