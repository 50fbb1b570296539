package grpcv2

import (
	"slices"
	"sync"
)

// groups are the readers that share a shard name, by groupKey. The Source splits
// the sources between them. When one leaves, it goes on where that one has read
// to, which is further than what that one has sent: the difference is left to
// another member here, so that it is neither lost nor sent twice.
type groups struct {
	mu  sync.Mutex
	all map[string]*group
}

type group struct {
	key     string
	members []*reader
}

func (g *groups) join(key string, r *reader) *group {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all == nil {
		g.all = make(map[string]*group)
	}
	of := g.all[key]
	if of == nil {
		of = &group{key: key}
		g.all[key] = of
	}
	of.members = append(of.members, r)
	return of
}

// leave takes r out of its group.
func (g *groups) leave(of *group, r *reader) {
	g.mu.Lock()
	defer g.mu.Unlock()
	of.members = slices.DeleteFunc(of.members, func(m *reader) bool { return m == r })
	if len(of.members) == 0 && g.all[of.key] == of {
		delete(g.all, of.key)
	}
}

// give puts what a member that has left has not sent into the stream of another
// one, where it comes before anything else of these sources, because the Source
// has not yet given them to anybody. It is false if there is nobody.
func (g *groups) give(of *group, unsent []byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range of.members {
		if m.out.push(unsent) {
			return true
		}
	}
	return false
}
