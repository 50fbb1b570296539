// Package share shares pieces of work between processes: each piece has one
// holder at a time, and what a holder notes of a piece the next one is told.
//
// It is how several loggregator-drain share their drains, without a cluster of
// their own: every Loggregator server has a [Registry], and every process that
// shares is a [Member] of a group at all of them.
//
// # The rule
//
// A registry decides alone, and only about what its own server has: who holds a
// piece there may work with the records of that server. So registries need not
// agree, and no network that is cut can make two holders: a member that reaches
// only some servers holds pieces at those, and the records of the others, which
// it could not read either, are somebody else's there.
//
// At each registry a piece belongs to the member of the highest hash of both, of
// those that live there and want it (rendezvous hashing): a member that comes
// takes its share from all others, one that goes leaves it to all others, and
// nothing else moves.
//
// # Leases
//
// A member tells every registry every [Interval] that it lives. It may work for
// [Lease] after it sent the last such request that was answered, by its own
// monotonic clock, and stops by itself then; a registry gives its pieces away a
// little later than that after it received the request, by its own. No clocks are
// compared. So a member that was killed, hangs or is cut off is replaced in under
// four seconds, and one that wakes up finds its lease ended before it does
// anything, see [Lease.Until].
//
// A piece that is to go to another member is held until its holder releases it.
// So nothing is done twice; what is noted with the release is the last word.
//
// A registry that was restarted knows nobody. For as long as a lease may be valid
// that was given before, it gives nothing away but to who says that he holds it,
// notes and all.
//
// # What can be repeated
//
// Whoever is killed has noted his place at most Interval before, and more if his
// notes are larger than a request may be. Work since then is done again.
package share

import "time"

const (
	// Interval is how often a member renews its leases and sends its notes.
	Interval = 250 * time.Millisecond
	// LeaseTime is how long a lease that was not renewed is valid for the member.
	LeaseTime = 3 * time.Second
	// graceTime is how long a registry holds it valid.
	graceTime = LeaseTime + 250*time.Millisecond
	// keepTime is how long a note is kept that nobody holds.
	keepTime = 24 * time.Hour
)

// Path is where a server offers its Registry.
const Path = "/v1/drains/share"

// Limits of what a registry takes. What is more is refused with a reason.
const (
	MaxRequest = 8 << 20 // bytes of a request
	MaxName    = 256     // bytes of the name of a group, member or piece
	maxGroups  = 64
	maxMembers = 256     // of a group
	maxPieces  = 100_000 // of a group
	sendNotes  = 1 << 20 // bytes of notes in one request, unless a single one is larger
	maxNote    = 4 << 20 // bytes of one note
)

// request is what a member posts, once in an Interval. What it asks for is asked
// again until there was an answer: each of it may come twice.
type request struct {
	Group   string `json:"group"`
	Member  string `json:"member"`         // random; the same at all registries
	Name    string `json:"name,omitempty"` // for people
	Session uint64 `json:"session"`        // counts how often the member had to begin anew
	Seq     uint64 `json:"seq"`            // counts requests: what comes late is not heeded
	Heard   uint64 `json:"heard"`          // the last that was answered

	// Join begins a session. With it come, in Keep, the pieces whose leases are
	// valid though the registry does not know of them: it was restarted.
	Join bool     `json:"join,omitempty"`
	Keep []string `json:"keep,omitempty"`

	Want    []string          `json:"want,omitempty"`  // from now on
	Drop    []string          `json:"drop,omitempty"`  // not any more
	Notes   map[string]string `json:"notes,omitempty"` // of pieces held
	Release []string          `json:"release,omitempty"`
	Leave   bool              `json:"leave,omitempty"`
}

// answer is the registry's.
type answer struct {
	Boot    string   `json:"boot"`           // which life of the registry this is
	Known   bool     `json:"known"`          // false: there is no such session; nothing was done
	Wait    bool     `json:"wait,omitempty"` // nothing is given away yet
	Members int      `json:"members,omitempty"`
	Granted []grant  `json:"granted,omitempty"` // that are the member's from now on; told until they are heard
	Give    []string `json:"give,omitempty"`    // all pieces that it holds and others should
	Refused []string `json:"refused,omitempty"` // notes that found no room
}

// grant is a piece that is the member's from now on.
type grant struct {
	Piece string `json:"piece"`
	Note  string `json:"note,omitempty"`
	After string `json:"after,omitempty"` // how the last holder ended
	Kept  bool   `json:"kept,omitempty"`  // it was the member's before
}

// How a holder ends.
const (
	Released = "released" // in good order
	Expired  = "expired"  // its lease did
)
