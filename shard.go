package loggregator

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/cloudfoundry/loggregator/envelope"
)

// group is the readers that share a shard name. Each source belongs to one of
// them, by rendezvous hashing: when a member comes, only the sources that become
// its own move, and when one leaves, only those that were.
//
// A source moves at the position that its member has reached, and that member
// gives it away itself between two batches, so nothing is lost or read twice.
type group struct {
	key     string
	members []*subscription // guarded by Router.mu
}

var shardSeed = maphash.MakeSeed()

// shardKey tells groups apart: readers that ask for something else share
// nothing, whatever name they use.
func shardKey(q *envelope.Query) string { return fmt.Sprintf("%s %+v", q.Shard, q.Select) }

// owner is the member that a source belongs to. Of several members of one name
// it is the one that came last.
func (g *group) owner(src *source) *subscription {
	var best *subscription
	var most uint64
	for _, m := range g.members {
		if sum := m.claim(src); best == nil || sum >= most {
			best, most = m, sum
		}
	}
	return best
}

// claim is a number that a source's owner has the highest of. That of a member
// with a name is the same in every process.
func (s *subscription) claim(src *source) uint64 {
	if s.q.Member == "" {
		var h maphash.Hash
		h.SetSeed(shardSeed)
		h.WriteString(src.id)
		maphash.WriteComparable(&h, s.member)
		return h.Sum64()
	}
	// Sums of names that differ at the end alone differ in all bits.
	sum := sha256.Sum256([]byte(src.id + "\x00" + s.q.Member))
	return binary.BigEndian.Uint64(sum[:])
}

// join adds s to the group that its query names, and reports whether it is the
// first: then it starts as its query says, and all sources are its own. Else the
// other members will hand over what becomes its own. The caller holds r.mu.
func (r *Router) join(s *subscription) (first bool) {
	key := shardKey(&s.q)
	g := r.groups[key]
	if g == nil {
		g = &group{key: key}
		r.groups[key] = g
	}
	r.members++
	s.group, s.member = g, r.members
	g.members = append(g.members, s)
	for _, other := range g.members {
		for src, f := range other.feeds {
			if g.owner(src) == s {
				f.moving.Store(true)
				other.mark(f)
			}
		}
	}
	return len(g.members) == 1
}

// leave takes s out of its group and hands its sources to the others. The caller
// holds r.mu, and s reads no more.
func (r *Router) leave(s *subscription) {
	g := s.group
	g.members = slices.DeleteFunc(g.members, func(m *subscription) bool { return m == s })
	if len(g.members) == 0 {
		delete(r.groups, g.key)
		return
	}
	for src, f := range s.feeds {
		if r.sources[src.id] == src {
			g.owner(src).adopt(src, f)
		}
	}
}

// handOver gives a source to the member that it belongs to now.
func (s *subscription) handOver(f *feed) {
	r := s.r
	r.mu.Lock()
	defer r.mu.Unlock()
	f.moving.Store(false)
	if to := s.group.owner(f.src); to != s && s.feeds[f.src] == f {
		f.src.detach(f)
		delete(s.feeds, f.src)
		f.gone = true
		to.adopt(f.src, f)
	}
}

// adopt goes on where another member's feed has stopped. The caller holds r.mu.
func (s *subscription) adopt(src *source, from *feed) {
	f := s.newFeed(src)
	if f == nil || s.feeds[src] != nil {
		return
	}
	f.at, f.resumed, f.skipBefore = from.at, from.resumed, from.skipBefore
	f.until.Store(from.until.Load())
	s.feeds[src] = f
	src.attach(f)
	s.mark(f)
}
