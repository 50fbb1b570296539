package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Tags that a Cloud Foundry process has besides those in package envelope.
const (
	tagInstanceGUID = "process_instance_id"
	tagProcessType  = "process_type"
)

var errNoIdentity = errors.New("whose lines are these? Name the application with --app NAME, or the source with --source-id ID")

// identityFlags say who the program is. What they leave open comes from the
// environment that Cloud Foundry gives to an application.
type identityFlags struct {
	app, sourceID, instance string
	space, org              string
	sourceType              string
	tags                    map[string]string
}

// addTag takes one --tag.
func (f *identityFlags) addTag(s string) error {
	k, v, ok := strings.Cut(s, "=")
	if !ok || k == "" {
		return errors.New("a tag is KEY=VALUE")
	}
	if f.tags == nil {
		f.tags = make(map[string]string)
	}
	f.tags[k] = v
	return nil
}

// vcap is what of VCAP_APPLICATION says where lines belong.
type vcap struct {
	AppID         string       `json:"application_id"`
	AppName       string       `json:"application_name"`
	SpaceID       string       `json:"space_id"`
	SpaceName     string       `json:"space_name"`
	OrgID         string       `json:"organization_id"`
	OrgName       string       `json:"organization_name"`
	InstanceIndex *json.Number `json:"instance_index"`
	ProcessType   string       `json:"process_type"`
}

// identity joins flags and environment. A name given by flag replaces both name
// and id of the environment's, which are another application's (space's, org's)
// then. The warning, if any, is of an environment that could not be read and
// was not needed.
func (f *identityFlags) identity(env func(string) string) (id envelope.Identity, warning error, err error) {
	var v vcap
	if s := env("VCAP_APPLICATION"); s != "" {
		if jsonErr := json.Unmarshal([]byte(s), &v); jsonErr != nil {
			v = vcap{}
			warning = fmt.Errorf("VCAP_APPLICATION is not understood and left aside: %w", jsonErr)
		}
	}
	override(&v.AppName, &v.AppID, f.app)
	override(&v.SpaceName, &v.SpaceID, f.space)
	override(&v.OrgName, &v.OrgID, f.org)

	id.SourceID = cmp.Or(f.sourceID, v.AppID, v.AppName)
	if id.SourceID == "" {
		return id, nil, errors.Join(errNoIdentity, warning)
	}
	if len(id.SourceID) > envelope.MaxSourceID || strings.ContainsFunc(id.SourceID, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return id, nil, fmt.Errorf("source id %.40q: at most %d bytes, no control characters", id.SourceID, envelope.MaxSourceID)
	}
	index := "0"
	if v.InstanceIndex != nil {
		index = v.InstanceIndex.String()
	}
	id.InstanceID = cmp.Or(f.instance, env("CF_INSTANCE_INDEX"), index)

	process := cmp.Or(v.ProcessType, "web")
	id.Tags = map[string]string{
		envelope.TagAppID:      v.AppID,
		envelope.TagAppName:    v.AppName,
		envelope.TagSpaceID:    v.SpaceID,
		envelope.TagSpaceName:  v.SpaceName,
		envelope.TagOrgID:      v.OrgID,
		envelope.TagOrgName:    v.OrgName,
		envelope.TagSourceType: cmp.Or(f.sourceType, "APP/PROC/"+strings.ToUpper(process)),
		tagInstanceGUID:        env("CF_INSTANCE_GUID"),
		tagProcessType:         v.ProcessType,
	}
	for k, tag := range id.Tags {
		if tag == "" {
			delete(id.Tags, k)
		}
	}
	for k, tag := range f.tags {
		id.Tags[k] = tag
	}
	return id, warning, nil
}

func override(name, id *string, flag string) {
	if flag != "" && flag != *name {
		*name, *id = flag, ""
	}
}
