package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// TestPlatform is what cf and Loggregator's authorization ask for, and what is
// answered to whom. What cf then shows is tested in internal/interop/cf.
func TestPlatform(t *testing.T) {
	web := httptest.NewUnstartedServer(nil)
	base := "http://" + web.Listener.Addr().String()
	h, err := newCF(defaultWorld, base, "http://logs.example.com")
	if err != nil {
		t.Fatal(err)
	}
	web.Config.Handler = h
	web.Start()
	defer web.Close()
	call := func(token, path string, form url.Values) (int, string) {
		t.Helper()
		r, _ := http.NewRequest("GET", base+path, nil)
		if form != nil {
			r, _ = http.NewRequest("POST", base+path, strings.NewReader(form.Encode()))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		r.Header.Set("Authorization", token)
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var v any
		if err := json.NewDecoder(res.Body).Decode(&v); err != nil {
			t.Fatal(err)
		}
		body, _ := json.Marshal(v)
		return res.StatusCode, string(body)
	}
	login := func(form url.Values) (access, refresh string) {
		status, body := call("", "/oauth/token", form)
		var v struct {
			Access  string `json:"access_token"`
			Refresh string `json:"refresh_token"`
		}
		if err := json.Unmarshal([]byte(body), &v); status != 200 || err != nil {
			t.Fatal(status, body)
		}
		return "bearer " + v.Access, v.Refresh
	}
	ann, refresh := login(url.Values{"grant_type": {"password"}, "username": {"ann"}, "password": {"ann"}})
	bob, _ := login(url.Values{"grant_type": {"password"}, "username": {"bob"}, "password": {"bob"}})
	again, _ := login(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}})
	const (
		annShop = "0c000000-0000-4000-8000-000000000001"
		bobShop = "0c000000-0000-4000-8000-000000000003"
	)
	for name, test := range map[string]struct {
		token, path string
		status      int
		has, hasNot string
	}{
		"the root":               {"", "/", 200, `"log_cache":{"href":"http://logs.example.com"}`, ""},
		"the kinds of things":    {"", "/v3", 200, `"apps":{"href":"` + base + `/v3/apps"}`, ""},
		"prompts":                {"", "/login", 200, `"username":["text"`, ""},
		"keys":                   {"", "/token_keys", 200, `"kid":"key-1"`, `"d":`},
		"own apps":               {ann, "/v3/apps?per_page=5000", 200, annShop, bobShop},
		"own apps, other case":   {"B" + bob[1:], "/v3/apps", 200, bobShop, annShop},
		"after a refresh":        {again, "/v3/apps?names=shop", 200, `"total_results":1`, "search"},
		"by several names":       {ann, "/v3/apps?names=shop,search", 200, `"total_results":2`, ""},
		"a comma in a name":      {ann, "/v3/apps?names=shop%252Csearch", 200, `"total_results":0`, ""},
		"another's space":        {ann, "/v3/spaces?names=prod", 200, `"total_results":0`, ""},
		"services":               {ann, "/v3/service_instances", 200, `"resources":[]`, ""},
		"one's app":              {ann, "/v3/apps/" + annShop, 200, `"name":"shop"`, ""},
		"another's app":          {ann, "/v3/apps/" + bobShop, 404, "CF-ResourceNotFound", "shop"},
		"no token":               {"", "/v3/apps", 401, "CF-InvalidAuthToken", annShop},
		"a refresh token":        {"bearer " + refresh, "/v3/apps", 401, "CF-InvalidAuthToken", annShop},
		"a token of nobody's":    {ann[:len(ann)-4], "/v3/apps", 401, "CF-InvalidAuthToken", annShop},
		"a token in other words": {"basic " + ann[7:], "/v3/apps", 401, "CF-InvalidAuthToken", annShop},
	} {
		status, body := call(test.token, test.path, nil)
		if status != test.status || !strings.Contains(body, test.has) || test.hasNot != "" && strings.Contains(body, test.hasNot) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	for _, form := range []url.Values{
		{"grant_type": {"password"}, "username": {"ann"}, "password": {"bob"}},
		{"grant_type": {"password"}, "username": {"carl"}},
		{"grant_type": {"refresh_token"}, "refresh_token": {ann[7:]}},
		{"grant_type": {"client_credentials"}, "username": {"ann"}, "password": {"ann"}},
	} {
		if status, body := call("", "/oauth/token", form); status != 401 {
			t.Errorf("%v: %d %s", form, status, body)
		}
	}
	if _, err := newCF([]byte("{"), base, ""); err == nil {
		t.Error("a world that is none is taken")
	}
}
