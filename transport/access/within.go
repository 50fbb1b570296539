package access

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cloudfoundry/loggregator/envelope"
)

// MaxSelect bounds the selectors of one grant.
const MaxSelect = 10_000

// Within is what of sel lies within allowed: for an Authorizer that knows what
// somebody may read before he asks. Each selector of sel must have something in
// common with allowed, else the error is ErrDenied.
//
// Two selectors have in common what both describe. Where one asks for a name and
// the other for the id of it, that cannot be told here, and they have nothing:
// who is allowed by ids asks by ids.
func Within(sel, allowed []envelope.Selector) ([]envelope.Selector, error) {
	var granted []envelope.Selector
	for i := range sel {
		before := len(granted)
		for j := range allowed {
			s, ok := both(sel[i], &allowed[j])
			if !ok {
				continue
			}
			if len(granted) == MaxSelect {
				return nil, fmt.Errorf("%w: what you ask for and what you may read make more than %d combinations; ask for less", ErrUserBusy, MaxSelect)
			}
			granted = append(granted, s)
		}
		if len(granted) == before {
			return nil, ErrDenied
		}
	}
	return granted, nil
}

// both is what a and b have in common.
func both(a envelope.Selector, b *envelope.Selector) (envelope.Selector, bool) {
	for _, f := range [...]struct {
		to   *string
		from string
	}{
		{&a.SourceID, b.SourceID}, {&a.App, b.App}, {&a.Space, b.Space}, {&a.Org, b.Org}, {&a.Instance, b.Instance},
	} {
		switch {
		case f.from == "" || *f.to == f.from:
		case *f.to == "":
			*f.to = f.from
		default:
			return a, false
		}
	}
	switch { // "APP" describes "APP/PROC"
	case b.SourceType == "" || a.SourceType == b.SourceType || strings.HasPrefix(a.SourceType, b.SourceType+"/"):
	case a.SourceType == "" || strings.HasPrefix(b.SourceType, a.SourceType+"/"):
		a.SourceType = b.SourceType
	default:
		return a, false
	}
	if len(a.Kinds) == 0 {
		a.Kinds = b.Kinds
	} else if len(b.Kinds) > 0 {
		var kinds []envelope.Kind
		for _, k := range a.Kinds {
			if slices.Contains(b.Kinds, k) {
				kinds = append(kinds, k)
			}
		}
		if a.Kinds = kinds; len(kinds) == 0 {
			return a, false
		}
	}
	if b.Stdout || b.Stderr {
		any := !a.Stdout && !a.Stderr
		a.Stdout, a.Stderr = b.Stdout && (any || a.Stdout), b.Stderr && (any || a.Stderr)
		if !a.Stdout && !a.Stderr {
			return a, false
		}
	}
	a.IDs = a.IDs || b.IDs
	return a, true
}
