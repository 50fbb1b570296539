package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/cloudfoundry/loggregator/envelope"
)

// ruleConfig says whose lines come from a source. In its texts {name} stands for
// what the source knows under that name: what a path or a regular expression
// remembers, the host, the program.
type ruleConfig struct {
	App        string            `yaml:"app"`
	AppID      string            `yaml:"app_id"`
	SourceID   string            `yaml:"source_id"`
	Instance   string            `yaml:"instance"`
	Space      string            `yaml:"space"`
	SpaceID    string            `yaml:"space_id"`
	Org        string            `yaml:"org"`
	OrgID      string            `yaml:"org_id"`
	SourceType string            `yaml:"source_type"`
	Tags       map[string]string `yaml:"tags"`
}

// rule makes identities. A key of ruleConfig that is not set is what the source
// knows under the key's name, if it does.
type rule struct {
	ruleConfig
	tags map[string]string // of the whole agent
}

// hostVar is known everywhere: the name of this machine.
const hostVar = "hostname"

var machine, _ = os.Hostname()

var varRE = regexp.MustCompile(`\{([^{}]*)\}`)

// expand puts what is known into a text.
func expand(text string, vars map[string]string) string {
	if !strings.Contains(text, "{") {
		return text
	}
	return varRE.ReplaceAllStringFunc(text, func(ref string) string {
		name := ref[1 : len(ref)-1]
		if v, ok := vars[name]; ok {
			return v
		}
		if name == hostVar {
			return machine
		}
		return ""
	})
}

// texts are all texts of the rule.
func (r *ruleConfig) texts() []string {
	all := []string{r.App, r.AppID, r.SourceID, r.Instance, r.Space, r.SpaceID, r.Org, r.OrgID, r.SourceType}
	return append(all, slices.Collect(maps.Values(r.Tags))...)
}

// check sees whether the rule can do with what a source knows.
func (r *ruleConfig) check(known []string) error {
	for _, text := range r.texts() {
		for _, ref := range varRE.FindAllStringSubmatch(text, -1) {
			if !slices.Contains(known, ref[1]) && ref[1] != hostVar {
				all := append(slices.Clone(known), hostVar)
				slices.Sort(all)
				return fmt.Errorf("%q: nothing is known as {%s} here; there are {%s}", text, ref[1], strings.Join(slices.Compact(all), "}, {"))
			}
		}
	}
	if r.App == "" && r.AppID == "" && r.SourceID == "" &&
		!slices.ContainsFunc(known, func(name string) bool { return name == "app" || name == "app_id" || name == "source_id" }) {
		return errors.New("whose lines are these? Name the application (app: shop), or have the path tell it, as /var/log/{app}.log does")
	}
	return nil
}

// identity is whose lines come from where these things are known.
func (r *rule) identity(vars map[string]string) (envelope.Identity, error) {
	value := func(text, name string) string {
		if text == "" {
			return vars[name]
		}
		return expand(text, vars)
	}
	app, appID := value(r.App, "app"), value(r.AppID, "app_id")
	id := envelope.Identity{
		SourceID:   cmp.Or(value(r.SourceID, "source_id"), appID, app),
		InstanceID: cmp.Or(value(r.Instance, "instance"), machine),
		Tags: map[string]string{
			envelope.TagAppName:    app,
			envelope.TagAppID:      appID,
			envelope.TagSpaceName:  value(r.Space, "space"),
			envelope.TagSpaceID:    value(r.SpaceID, "space_id"),
			envelope.TagOrgName:    value(r.Org, "org"),
			envelope.TagOrgID:      value(r.OrgID, "org_id"),
			envelope.TagSourceType: value(r.SourceType, "source_type"),
		},
	}
	if id.SourceID == "" {
		return id, errors.New("no application and no source id comes out of it")
	}
	if len(id.SourceID) > envelope.MaxSourceID || strings.ContainsFunc(id.SourceID, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return id, fmt.Errorf("source id %.40q: at most %d bytes, no control characters", id.SourceID, envelope.MaxSourceID)
	}
	maps.DeleteFunc(id.Tags, func(_, tag string) bool { return tag == "" })
	for _, tags := range []map[string]string{r.tags, r.Tags} {
		for k, text := range tags {
			if v := expand(text, vars); v != "" {
				id.Tags[k] = v
			}
		}
	}
	return id, nil
}

// describe says an identity in words.
func describe(id envelope.Identity) string {
	var b strings.Builder
	fmt.Fprintf(&b, "source id %s, instance %s", id.SourceID, id.InstanceID)
	for _, k := range slices.Sorted(maps.Keys(id.Tags)) {
		fmt.Fprintf(&b, ", %s=%s", k, id.Tags[k])
	}
	return b.String()
}

// withMatch adds to what is known what a regular expression remembers of a path.
func withMatch(re *pattern, path string, vars map[string]string) (map[string]string, error) {
	if re == nil {
		return vars, nil
	}
	m := re.FindStringSubmatch(path)
	if m == nil {
		return nil, fmt.Errorf("match: %s does not describe %s", re, path)
	}
	all := maps.Clone(vars)
	if all == nil {
		all = make(map[string]string)
	}
	for i, name := range re.SubexpNames() {
		if name != "" {
			all[name] = m[i]
		}
	}
	return all, nil
}
