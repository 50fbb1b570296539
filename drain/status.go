package drain

import (
	"maps"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Status is the state of one binding.
type Status struct {
	Provider string `json:"provider"`
	SourceID string `json:"source_id,omitempty"`
	App      string `json:"app,omitempty"`
	Space    string `json:"space,omitempty"`
	Org      string `json:"org,omitempty"`
	URL      string `json:"url"` // scheme, host and port

	// Test is how it went when the binding was new: the name was resolved, a
	// connection made, and one line sent that says what it is; nil while that
	// goes on, or if there was none.
	Test *Verdict `json:"test,omitempty"`

	// Behind is how many records the source holds for the drain that are not
	// delivered; nil if the source cannot tell.
	Behind *uint64 `json:"lag_records,omitempty"`

	Stats
}

// counter is a Source that can tell how far behind a reader is.
type counter interface {
	Behind(sel []envelope.Selector, at map[envelope.StreamID]uint64) uint64
}

// maxWalks bounds for how many drains that are not of one source id Status asks
// how far they are behind: each costs a walk over all sources.
const maxWalks = 16

// askTime bounds how long Status asks sources how far drains are behind: those of
// other processes take their time, or do not answer.
const askTime = 2 * time.Second

// ProviderStatus is the state of a Provider.
type ProviderStatus struct {
	Name     string    `json:"name"`
	Bindings int       `json:"bindings"`
	Unusable int       `json:"unusable"`           // of the bindings
	Kept     int       `json:"kept"`               // bindings that the last answer did not name, and that stay until it is sure that they are gone
	LastGood time.Time `json:"last_good,omitzero"` // when it answered last
	Error    string    `json:"error,omitempty"`    // why it does not now
}

// Status gives the state of each binding, in the order of the providers and
// their answers. Those that are not usable have the state Invalid and the reason
// as LastError.
func (s *Set) Status() []Status {
	s.mu.Lock()
	n := 0
	for _, g := range s.groups {
		n += len(g.drains)
	}
	list := make([]Status, 0, n)
	drains := make([]*Drain, 0, n)
	sources := make([]*several, 0, n)
	past := make([]Stats, 0, n)
	for _, g := range s.groups {
		for _, b := range g.drains {
			st := Status{Provider: g.name, SourceID: b.SourceID, App: b.App, Space: b.Space, Org: b.Org, Test: b.verdict}
			st.State = Connecting
			if b.err != nil {
				st.State, st.LastError = Invalid, b.err.Error()
			}
			if b.unit != nil && b.err == nil {
				st.Stats = st.Stats.plus(&b.past)
				st.State = Elsewhere
			}
			if b.drain != nil {
				st.URL = b.drain.String()
			} else if t, err := parseURL(b.URL); err == nil {
				st.URL = t.String()
			}
			list, drains = append(list, st), append(drains, b.drain)
			sources, past = append(sources, b.src), append(past, b.past)
		}
	}
	s.mu.Unlock()
	source, _ := s.src.(counter)
	walks, began := 0, time.Now()
	for i, d := range drains {
		if d == nil {
			continue
		}
		list[i].Stats = d.Stats().plus(&past[i])
		if source == nil && sources[i] == nil {
			continue
		}
		if time.Since(began) > askTime {
			continue
		}
		if list[i].SourceID == "" {
			if walks++; walks > maxWalks {
				continue
			}
		}
		if src := sources[i]; src == nil {
			list[i].Behind = new(source.Behind(d.query.Select, d.settledAt()))
		} else if n, ok := src.behind(d.query.Select, d.settledAt()); ok {
			list[i].Behind = &n
		}
	}
	return list
}

// settledAt is up to where, in each ring, everything is known to be delivered or
// missed. It is further than Cursor, which leaves out what may have to be sent
// again.
func (d *Drain) settledAt() map[envelope.StreamID]uint64 {
	d.feed.mu.Lock()
	defer d.feed.mu.Unlock()
	at := make(map[envelope.StreamID]uint64, len(d.feed.good.Rings))
	maps.Copy(at, d.feed.good.Rings)
	for ring, position := range d.feed.counted {
		at[ring] = max(at[ring], position)
	}
	return at
}

// Providers gives the state of each provider.
func (s *Set) Providers() []ProviderStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]ProviderStatus, len(s.groups))
	for i, g := range s.groups {
		st := &list[i]
		st.Name, st.Bindings, st.Kept, st.LastGood = g.name, len(g.drains), g.kept, g.good
		for _, b := range g.drains {
			if b.err != nil {
				st.Unusable++
			}
		}
		if g.err != nil {
			st.Error = g.err.Error()
		}
	}
	return list
}

// Err is why a provider cannot be followed at the moment, or the positions file
// not written, or nil.
func (s *Set) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.groups {
		if g.err != nil {
			return g.err
		}
	}
	if s.sharing != nil {
		if err := s.sharing.member.Err(); err != nil {
			return err
		}
	}
	return s.positionsErr
}
