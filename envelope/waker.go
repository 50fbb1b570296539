package envelope

// Waker is what a Source may be besides, so that whoever has nothing to read for
// long need not keep a goroutine in a loop over Batches.
//
// Wake calls f when there is something to read for the query behind its Cursor,
// which is not empty: at once if there is already, or later, when a record
// arrives, a source that the query describes appears, or the Source closes. It
// may call f more often than once, and without need; f must not block, and may be
// called before Wake has returned. Stop ends it: f is not called by calls that
// begin after stop has returned.
type Waker interface {
	Wake(q Query, f func()) (stop func())
}
