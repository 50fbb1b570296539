package httpclient

import (
	"context"
	"iter"
	"sync"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Join is one source of several servers, between which senders may change.
// Batches of one server come in order, those of different ones as they come. A
// cursor holds the places in all of them.
//
// Following, a server that is away holds up no other. Each sequence has a
// connection and a goroutine for each server.
func Join(clients ...*Client) envelope.Source {
	if len(clients) == 1 {
		return clients[0]
	}
	return joined(clients)
}

type joined []*Client

func (j joined) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	if !q.Follow {
		return j.oneByOne(ctx, q)
	}
	return func(yield func(envelope.Batch, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		type step struct {
			batch envelope.Batch
			err   error
		}
		steps := make(chan step)
		taken := make(chan struct{}) // the memory was lent until now
		for _, c := range j {
			running.Go(func() {
				for b, err := range c.Batches(ctx, q) {
					select {
					case steps <- step{b, err}:
					case <-ctx.Done():
						return
					}
					select {
					case <-taken:
					case <-ctx.Done():
						return
					}
				}
			})
		}
		for {
			select {
			case s := <-steps:
				if !yield(s.batch, s.err) || s.err != nil {
					return
				}
				taken <- struct{}{}
			case <-ctx.Done():
				yield(envelope.Batch{}, ctx.Err())
				return
			}
		}
	}
}

// oneByOne gives what each server holds. The error of one comes after what the
// others have.
func (j joined) oneByOne(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	return func(yield func(envelope.Batch, error) bool) {
		var first error
		for _, c := range j {
			for b, err := range c.Batches(ctx, q) {
				if err != nil {
					if first == nil {
						first = err
					}
					break
				}
				if !yield(b, nil) {
					return
				}
			}
		}
		if first != nil {
			yield(envelope.Batch{}, first)
		}
	}
}
