package cloudfoundry

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
)

const (
	// maxAsks bounds the questions that one request makes of the Cloud Controller.
	maxAsks = 30
	// idsAtOnce is how many ids one question holds: as many as fit an address.
	idsAtOnce = 100
)

// resolution makes what was asked for into what the bearer of a token may see.
type resolution struct {
	cc    *controller
	ctx   context.Context
	user  string
	token string
	max   int
	asks  int // that are left

	seen    map[string]bool // ids of applications and service instances that were looked at
	granted []envelope.Selector
}

// look finds out at once which of the ids named alone may be seen.
func (r *resolution) look(sel []envelope.Selector) error {
	r.seen = make(map[string]bool)
	var ids []string
	for i := range sel {
		if id := alone(&sel[i]); isID(id) && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for some := range slices.Chunk(ids, idsAtOnce) {
		if err := r.lookAmong("/v3/apps", some); err != nil {
			return err
		}
		rest := slices.DeleteFunc(slices.Clone(some), func(id string) bool { return r.seen[id] })
		if len(rest) == 0 {
			continue
		}
		if err := r.lookAmong("/v3/service_instances", rest); err != nil {
			return err
		}
	}
	return nil
}

func (r *resolution) lookAmong(kind string, ids []string) error {
	found, err := r.list(kind, url.Values{"guids": {strings.Join(ids, ",")}})
	for _, id := range found {
		r.seen[id] = true
	}
	if err == nil && len(ids) > 1 {
		for _, id := range ids { // each may be asked for alone next
			r.cc.know(r.token, kind, url.Values{"guids": {id}}, only(found, id))
		}
	}
	return err
}

// alone is the id of a selector that may be one, and has no space or org.
func alone(s *envelope.Selector) string {
	if s.Space != "" || s.Org != "" {
		return ""
	}
	if s.SourceID != "" && (s.App == "" || s.App == s.SourceID) {
		return s.SourceID
	}
	if s.SourceID == "" {
		return s.App
	}
	return ""
}

// grant adds what may be seen of what s asks for.
func (r *resolution) grant(s *envelope.Selector) error {
	if id := alone(s); isID(id) {
		if r.seen[id] {
			return r.add(s, []string{id})
		}
		return nil
	}
	if s.IDs && (s.App != "" && !isID(s.App) || s.Space != "" && !isID(s.Space) || s.Org != "" && !isID(s.Org)) {
		return nil
	}
	if s.SourceID != "" && !isID(s.SourceID) {
		return nil
	}
	within := url.Values{}
	if s.Org != "" {
		orgs, err := r.ids("/v3/organizations", s.Org, nil)
		if err != nil || len(orgs) == 0 {
			return err
		}
		if within, err = among("organization_guids", orgs); err != nil {
			return err
		}
	}
	if s.Space != "" || s.Org != "" && s.App == "" && s.SourceID == "" {
		spaces, err := r.ids("/v3/spaces", s.Space, within)
		if err != nil || len(spaces) == 0 {
			return err
		}
		if s.App == "" && s.SourceID == "" {
			return r.addSpaces(s, spaces)
		}
		if within, err = among("space_guids", spaces); err != nil {
			return err
		}
	}
	switch {
	case s.SourceID != "" && s.App != "" && s.App != s.SourceID:
		within.Set("guids", s.SourceID)
		apps, err := r.ids("/v3/apps", s.App, within)
		if err != nil {
			return err
		}
		return r.add(s, only(apps, s.SourceID))
	case s.SourceID != "":
		apps, err := r.ids("/v3/apps", s.SourceID, within)
		if err != nil {
			return err
		}
		return r.add(s, apps)
	}
	apps, err := r.ids("/v3/apps", s.App, within)
	if err != nil {
		return err
	}
	if s.App == "" { // everything
		services, err := r.ids("/v3/service_instances", "", nil)
		if err != nil {
			return err
		}
		apps = append(slices.Clone(apps), services...)
	}
	return r.add(s, apps)
}

// ids are those of what may be seen of a kind by a name or id, or of all of it.
func (r *resolution) ids(kind, nameOrID string, within url.Values) ([]string, error) {
	q := url.Values{}
	for k, v := range within {
		q[k] = v
	}
	switch {
	case isID(nameOrID) && q.Has("guids"): // of one that has another id
		return nil, nil
	case isID(nameOrID):
		q.Set("guids", nameOrID)
	case nameOrID != "":
		q.Set("names", strings.ReplaceAll(nameOrID, ",", "%2C")) // else it is several names
	}
	found, err := r.list(kind, q)
	if isID(nameOrID) {
		found = only(found, nameOrID)
	}
	return found, err
}

// among narrows a question to some places.
func among(param string, ids []string) (url.Values, error) {
	if len(ids) > idsAtOnce {
		return nil, fmt.Errorf("%w: more than %d spaces or orgs have that name; name one by its id", access.ErrUserBusy, idsAtOnce)
	}
	return url.Values{param: {strings.Join(ids, ",")}}, nil
}

// only is id, if it is among ids: a database may not mind upper and lower case.
func only(ids []string, id string) []string {
	if slices.Contains(ids, id) {
		return []string{id}
	}
	return nil
}

func (r *resolution) list(kind string, q url.Values) ([]string, error) {
	if r.asks--; r.asks < 0 {
		return nil, fmt.Errorf("%w: you name too much at once by names that the Cloud Controller must be asked for; name it by ids, or in several requests", access.ErrUserBusy)
	}
	return r.cc.list(r.ctx, r.user, r.token, kind, q)
}

// add grants sources, and of their records what s asks of records.
func (r *resolution) add(s *envelope.Selector, ids []string) error {
	for _, id := range ids {
		if len(r.granted) >= r.max {
			return r.tooMany()
		}
		t := recordsOf(s)
		t.SourceID = id
		r.granted = append(r.granted, t)
	}
	return nil
}

// addSpaces grants whole spaces, by their ids.
func (r *resolution) addSpaces(s *envelope.Selector, ids []string) error {
	for _, id := range ids {
		if len(r.granted) >= r.max {
			return r.tooMany()
		}
		t := recordsOf(s)
		t.Space, t.IDs = id, true
		r.granted = append(r.granted, t)
	}
	return nil
}

func (r *resolution) tooMany() error {
	return fmt.Errorf("%w: that is more than %d applications or spaces; ask for less: a space, or an application", access.ErrUserBusy, r.max)
}

// recordsOf is what s asks of records.
func recordsOf(s *envelope.Selector) envelope.Selector {
	return envelope.Selector{Kinds: s.Kinds, Stdout: s.Stdout, Stderr: s.Stderr, Instance: s.Instance, SourceType: s.SourceType}
}

// isID reports whether s has the form of the platform's ids.
func isID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
				return false
			}
		}
	}
	return true
}
