package access

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Permits are what somebody may read, as a file says it in JSON: "everything", or
// a list of objects such as
//
//	{"app": "shop"}  {"space": "dev", "org": "acme"}  {"source_id": "gorouter"}
//	{"org_id": "7f5e…"}
//
// of which each describes the records for which all of it holds. An app, space or
// org is a name or an id; as app_id, space_id or org_id it is an id alone, and then
// so are all three of its object.
type Permits []envelope.Selector

// UnmarshalJSON reads them. Errors say what to write.
func (p *Permits) UnmarshalJSON(text []byte) error {
	var word string
	if json.Unmarshal(text, &word) == nil {
		if word != "everything" {
			return fmt.Errorf(`%q is no right to read; there are "everything" and lists like [{"app":"shop"}]`, word)
		}
		*p = Permits{{}}
		return nil
	}
	var list []struct {
		SourceID string `json:"source_id"`
		App      string `json:"app"`
		Space    string `json:"space"`
		Org      string `json:"org"`
		AppID    string `json:"app_id"`
		SpaceID  string `json:"space_id"`
		OrgID    string `json:"org_id"`
	}
	if err := strictly(text, &list); err != nil {
		return fmt.Errorf(`a right to read is "everything" or a list like [{"app":"shop"},{"space":"dev","org":"acme"}]: %w`, err)
	}
	var permits Permits
	for _, x := range list {
		s := envelope.Selector{SourceID: x.SourceID, App: x.App, Space: x.Space, Org: x.Org}
		if x.AppID != "" || x.SpaceID != "" || x.OrgID != "" {
			if x.App != "" || x.Space != "" || x.Org != "" {
				return errors.New("app, space and org do not go together with app_id, space_id and org_id")
			}
			s.App, s.Space, s.Org, s.IDs = x.AppID, x.SpaceID, x.OrgID, true
		}
		if s.SourceID == "" && s.App == "" && s.Space == "" && s.Org == "" {
			return errors.New(`a right to read names an app, app_id, space, space_id, org, org_id or source_id; for all of them write "everything"`)
		}
		permits = append(permits, s)
	}
	*p = permits
	return nil
}

// strictly reads text, all of it, into v; what v has no field for is an error.
func strictly(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is something behind its end")
	}
	return nil
}
