package main

import (
	"maps"
	"strings"
	"testing"
)

const vcapApplication = `{"application_id":"app-guid","application_name":"shop","space_id":"space-guid","space_name":"prod",
	"organization_id":"org-guid","organization_name":"acme","instance_index":2,"process_type":"worker","limits":{"mem":1}}`

func TestIdentity(t *testing.T) {
	cf := map[string]string{"VCAP_APPLICATION": vcapApplication, "CF_INSTANCE_GUID": "i-guid"}
	cfTags := map[string]string{"app_id": "app-guid", "app_name": "shop", "space_id": "space-guid", "space_name": "prod",
		"organization_id": "org-guid", "organization_name": "acme", "source_type": "APP/PROC/WORKER",
		"process_instance_id": "i-guid", "process_type": "worker"}
	with := func(m map[string]string, pairs ...string) map[string]string {
		m = maps.Clone(m)
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
			if pairs[i+1] == "" {
				delete(m, pairs[i])
			}
		}
		return m
	}
	for name, c := range map[string]struct {
		flags            identityFlags
		env              map[string]string
		source, instance string
		tags             map[string]string
		warns            bool
		fails            string
	}{
		"app":            {flags: identityFlags{app: "shop"}, source: "shop", instance: "0", tags: map[string]string{"app_name": "shop", "source_type": "APP/PROC/WEB"}},
		"source":         {flags: identityFlags{sourceID: "s"}, source: "s", instance: "0", tags: map[string]string{"source_type": "APP/PROC/WEB"}},
		"everything":     {flags: identityFlags{app: "a", sourceID: "s", instance: "7", space: "sp", org: "o", sourceType: "API", tags: map[string]string{"k": "v", "app_name": "b"}}, source: "s", instance: "7", tags: map[string]string{"app_name": "b", "space_name": "sp", "organization_name": "o", "source_type": "API", "k": "v"}},
		"Cloud Foundry":  {env: cf, source: "app-guid", instance: "2", tags: cfTags},
		"index":          {env: with(cf, "CF_INSTANCE_INDEX", "5"), source: "app-guid", instance: "5", tags: cfTags},
		"same app":       {flags: identityFlags{app: "shop"}, env: cf, source: "app-guid", instance: "2", tags: cfTags},
		"another app":    {flags: identityFlags{app: "till"}, env: cf, source: "till", instance: "2", tags: with(cfTags, "app_name", "till", "app_id", "")},
		"another space":  {flags: identityFlags{space: "dev"}, env: cf, source: "app-guid", instance: "2", tags: with(cfTags, "space_name", "dev", "space_id", "")},
		"nobody":         {fails: "--app NAME"},
		"bad VCAP":       {env: map[string]string{"VCAP_APPLICATION": "{"}, fails: "VCAP_APPLICATION"},
		"bad VCAP, app":  {flags: identityFlags{app: "a"}, env: map[string]string{"VCAP_APPLICATION": "{"}, source: "a", instance: "0", tags: map[string]string{"app_name": "a", "source_type": "APP/PROC/WEB"}, warns: true},
		"long source":    {flags: identityFlags{sourceID: strings.Repeat("x", 257)}, fails: "at most 256"},
		"control source": {flags: identityFlags{sourceID: "a\nb"}, fails: "control"},
	} {
		t.Run(name, func(t *testing.T) {
			id, warning, err := c.flags.identity(func(k string) string { return c.env[k] })
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("error %v, want %q", err, c.fails)
				}
				return
			}
			if err != nil || (warning != nil) != c.warns {
				t.Errorf("error %v, warning %v", err, warning)
			}
			if id.SourceID != c.source || id.InstanceID != c.instance || !maps.Equal(id.Tags, c.tags) {
				t.Errorf("got %+v, want %s/%s %v", id, c.source, c.instance, c.tags)
			}
		})
	}
}
