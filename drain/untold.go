package drain

import (
	"crypto/rand"
	"slices"
)

// untold is what was missed before a place that is kept, and that the receiver has
// not been told of: it is told every 30 seconds at most, and a process may end or
// give the drain to another one before that.
type untold struct {
	Records uint64 `json:"records,omitempty"`
	Unknown bool   `json:"unknown,omitempty"` // and an unknown number
	From    int64  `json:"from,omitempty"`    // as those of gap
	Until   int64  `json:"until,omitempty"`
	Reason  string `json:"reason,omitempty"`

	// Of a drain that is shared, the same may be noted at several servers, by
	// several processes: who has noted it, and whose notes are in it.
	By string   `json:"by,omitempty"`
	Of []string `json:"of,omitempty"`

	more *untold // of the same drain, see with
}

// maxUntoldOf bounds how many others' notes are remembered.
const maxUntoldOf = 32

// note makes g one that is kept; nil if there is nothing to keep.
func (g *gap) note(by string, of []string) *untold {
	if !g.any() && len(of) == 0 {
		return nil
	}
	return &untold{Records: g.records, Unknown: g.unknown, From: g.from, Until: g.until, Reason: g.reason, By: by, Of: of}
}

func (u *untold) gap() gap {
	if u == nil {
		return gap{}
	}
	return gap{u.Records, u.Unknown, u.From, u.Until, u.Reason}
}

// with is u and what else was noted of the same drain.
func (u *untold) with(more *untold) *untold {
	if u == nil {
		return more
	}
	for last := u; ; last = last.more {
		if last.more == nil {
			last.more = more
			return u
		}
	}
}

// inherit takes over what others noted, each of it once, and begins another life
// with a name of its own. What this process owed in the last one it owes no more if
// somebody has taken it over.
func (b *bound) inherit(notes *untold) {
	inOther := func(by string) bool {
		for u := notes; u != nil; u = u.more {
			if slices.Contains(u.Of, by) {
				return true
			}
		}
		return false
	}
	of := slices.Clone(b.heirOf)
	if inOther(b.name) {
		b.owed = gap{}
	} else if b.name != "" {
		of = append(of, b.name)
	}
	for u := notes; u != nil; u = u.more {
		if u.By == b.name || slices.Contains(of, u.By) || inOther(u.By) {
			continue
		}
		of = append(of, u.By)
		of = append(of, u.Of...)
		if g := u.gap(); g.any() {
			b.owed.add(&g)
		}
	}
	b.heirOf = of[max(0, len(of)-maxUntoldOf):]
	b.name = rand.Text()
}
