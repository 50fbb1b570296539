package loggregator

import "github.com/cloudfoundry/loggregator/envelope"

// Wake implements envelope.Waker. A reader that sleeps costs no goroutine, and
// less than a kilobyte for each source that its query describes. The query's
// Shard is not heeded.
func (r *Router) Wake(q envelope.Query, f func()) (stop func()) {
	q.Follow, q.Shard = true, ""
	s := &subscription{r: r, q: q, feeds: make(map[*source]*feed), onNews: f}
	feeds, err := s.open()
	if err != nil {
		f()
		return func() {}
	}
	for _, feed := range feeds {
		if held, missed := feed.at.Behind(); held > 0 || missed > 0 {
			f()
			break
		}
	}
	r.mu.Lock()
	s.q.Cursor = envelope.Cursor{} // whatever comes from now on is news
	r.mu.Unlock()
	return s.close
}
