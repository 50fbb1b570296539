package syslogmsg

import (
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"unicode/utf8"
	"unsafe"

	"github.com/cloudfoundry/loggregator/envelope"
)

// The tags of a message, named as other collectors name them. An element
// [id name="value"] is a tag id.name, or just id where it has no parameters.
const (
	TagSeverity = "severity" // a keyword: emerg, alert, crit, err, warning, notice, info, debug
	TagFacility = "facility" // a keyword: kern, user, …, local7
	TagHostname = "hostname"
	TagAppName  = "appname"
	TagProcID   = "procid"
	TagMsgID    = "msgid"
)

// Limits of what becomes a tag. Longer values are cut, further parameters are
// left out.
const (
	MaxParams = 32   // of all elements of a message
	MaxName   = 128  // bytes of a tag's name
	MaxValue  = 1024 // bytes of a parameter's value
	MaxField  = 256  // bytes of a host, a program, a process id, a message id
)

// ours is the element in which drains of Loggregator send tags. They get their
// own names back.
const ours = "tags@47450"

// Identity is what records of one origin have in common, encoded.
type Identity struct {
	Source string
	before envelope.Fixed // loses to what a message says of itself
	after  envelope.Fixed // wins
	slot   uint32         // of a Composer
}

// nextSlot spreads identities over the slots.
var nextSlot atomic.Uint32

// NewIdentity encodes an Identity: of id's tags, those in defaults yield to what
// a message says of itself, those in id do not. It is nil without a source id.
func NewIdentity(id envelope.Identity, defaults map[string]string) *Identity {
	source := SourceID(id.SourceID)
	if source == "" {
		return nil
	}
	var after envelope.Fixed
	for _, k := range slices.Sorted(maps.Keys(id.Tags)) {
		after = after.AppendTag(k, id.Tags[k])
	}
	id.SourceID, id.Tags = source, defaults
	return &Identity{Source: source, before: id.Encode(), after: after, slot: nextSlot.Add(1)}
}

// SourceID makes a source id that a router takes of what may be none: printable,
// and not longer than envelope.MaxSourceID.
func SourceID(s string) string {
	b := []byte(strings.ToValidUTF8(s, "_"))
	for i, c := range b {
		if c < ' ' || c == 0x7f {
			b[i] = '_'
		}
	}
	return string(Cut(b, envelope.MaxSourceID))
}

// Cut is b, or as much of it as fits into limit bytes without tearing a
// character.
func Cut(b []byte, limit int) []byte {
	if len(b) <= limit {
		return b
	}
	return b[:CutAt(b, limit)]
}

// CutAt is where to cut b, which is longer than limit: there, or up to three
// bytes before, where a character of UTF-8 would be torn.
func CutAt(b []byte, limit int) int {
	for n := limit; n > 0 && n > limit-utf8.UTFMax; n-- {
		if utf8.RuneStart(b[n]) {
			return n
		}
	}
	return limit
}

// Composer makes what stands before a record's text out of an Identity and a
// message. Messages of one identity are mostly alike but for their time and text,
// so a Composer remembers what it made last for each of a few identities; then it
// costs a few comparisons. It is for one goroutine.
type Composer struct {
	// Bounded is how many messages said more in their tags than the limits allow.
	Bounded uint64

	recent      [slots]composed
	fixed       envelope.Fixed
	cut         bool
	name, value []byte // scratch
}

const (
	slots = 16      // identities that are remembered
	small = 2 << 10 // bytes of what is made, and of what it is made of, that are
)

// composed is what was made last in one slot.
type composed struct {
	id                        *Identity
	facility, severity        uint8
	prioritized, cut          bool
	procID, msgID, structured []byte
	fixed                     envelope.Fixed
}

// is reports whether r was made of these.
func (r *composed) is(id *Identity, m *Message) bool {
	return r.id == id && r.facility == m.Facility && r.severity == m.Severity && r.prioritized == m.HasPriority &&
		string(r.procID) == string(m.ProcID) && string(r.msgID) == string(m.MsgID) && string(r.structured) == string(m.Structured)
}

// Compose is valid until the next call.
func (c *Composer) Compose(id *Identity, m *Message) envelope.Fixed {
	r := &c.recent[id.slot%slots]
	if r.is(id, m) {
		if r.cut {
			c.Bounded++
		}
		return r.fixed
	}
	c.compose(id, m)
	if c.cut {
		c.Bounded++
	}
	if len(c.fixed) > small || len(m.ProcID)+len(m.MsgID)+len(m.Structured) > small {
		return c.fixed
	}
	r.id, r.facility, r.severity, r.prioritized, r.cut = id, m.Facility, m.Severity, m.HasPriority, c.cut
	r.procID = append(r.procID[:0], m.ProcID...)
	r.msgID = append(r.msgID[:0], m.MsgID...)
	r.structured = append(r.structured[:0], m.Structured...)
	r.fixed = append(r.fixed[:0], c.fixed...)
	return r.fixed
}

func (c *Composer) compose(id *Identity, m *Message) {
	c.cut = false
	f := append(c.fixed[:0], id.before...)
	if m.HasPriority {
		f = f.AppendTag(TagSeverity, SeverityName(m.Severity))
		f = f.AppendTag(TagFacility, FacilityName(m.Facility))
	}
	if m.ProcID != nil {
		f = f.AppendTag(TagProcID, View(c.bound(m.ProcID, MaxField)))
	}
	if m.MsgID != nil {
		f = f.AppendTag(TagMsgID, View(c.bound(m.MsgID, MaxField)))
	}
	n := 0
	for p := m.Params(); p.Next(); n++ {
		if n == MaxParams {
			c.cut = true
			break
		}
		c.name = c.name[:0]
		switch {
		case p.Name == nil:
			c.name = append(c.name, p.ID...)
		case string(p.ID) == ours:
			c.name = append(c.name, p.Name...)
		default:
			c.name = append(append(append(c.name, p.ID...), '.'), p.Name...)
		}
		value := p.Value
		if p.Escaped {
			c.value = AppendUnescaped(c.value[:0], c.bound(value, 2*MaxValue))
			value = c.value
		}
		f = f.AppendTag(View(c.bound(c.name, MaxName)), View(c.bound(value, MaxValue)))
	}
	c.fixed = append(f, id.after...)
}

func (c *Composer) bound(b []byte, limit int) []byte {
	if len(b) > limit {
		c.cut = true
		return Cut(b, limit)
	}
	return b
}

// View is b as a string without a copy, for functions that only read it.
func View(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
