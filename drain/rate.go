package drain

import "time"

const (
	awayTime   = time.Second // an outage that long is caught up with at a bounded rate
	rateWindow = time.Second
)

// rate measures what a drain sends normally, and bounds what it sends when there
// is a backlog after an outage.
type rate struct {
	normal  float64 // bytes per second, the recent past counting most
	bytes   int     // of the window that began at
	started time.Time

	limit float64   // bytes per second; 0: no bound
	next  time.Time // when more may be sent
}

// sent notes n bytes.
func (r *rate) sent(now time.Time, n int) {
	if r.limit > 0 {
		r.next = later(r.next, now).Add(time.Duration(float64(n) / r.limit * float64(time.Second)))
		return
	}
	r.bytes += n
	switch past := now.Sub(r.started); {
	case r.started.IsZero():
		r.started, r.bytes = now, 0
	case past >= rateWindow:
		r.normal = r.normal*0.8 + float64(r.bytes)/past.Seconds()*0.2
		r.started, r.bytes = now, 0
	}
}

// catchUp bounds the rate after an outage of any length worth it.
func (s *sender) catchUp() {
	if s.downSince.IsZero() || s.opts.CatchUp < 0 || time.Since(s.downSince) < awayTime {
		return
	}
	s.downSince = time.Time{}
	s.rate.limit = max(float64(s.opts.CatchUp), 2*s.rate.normal)
	s.rate.next = time.Now()
}

// pause is how long to wait before the next write. The bound ends when there was
// nothing to send.
func (s *sender) catchPause(now time.Time, any bool) time.Duration {
	if s.rate.limit == 0 {
		return 0
	}
	pause := s.rate.next.Sub(now)
	if pause > 0 && !s.flushing {
		return pause
	}
	if !any || s.flushing {
		s.rate = rate{normal: s.rate.normal}
	}
	return 0
}
