package envelope

import "context"

// Follower is what a Source may be besides, so that a tail of an application that
// says nothing costs no goroutine.
//
// Follow calls put with what Batches yields for the query, which follows, one call
// after the other, each in some goroutine of the Source's; put may block. Then it
// calls end, once, with the error with which the sequence ends, or with that of
// put. It returns at once, before any of this or in the middle of it.
type Follower interface {
	Follow(ctx context.Context, q Query, put func(Batch) error, end func(error))
}
