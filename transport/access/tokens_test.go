package access

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cloudfoundry/loggregator/envelope"
)

const annsToken = "ann's token, long enough"

func hashOf(token string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(token))) }

func TestTokens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	write := func(text string) {
		t.Helper()
		// As editors and configuration management do: another file by that name.
		if err := errors.Join(os.WriteFile(path+"~", []byte(text), 0o600), os.Rename(path+"~", path)); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"tokens":[
		{"user":"ann","sha256":"` + hashOf(annsToken) + `","read":[{"app":"shop"},{"space":"dev","org":"acme"}]},
		{"user":"ops","sha256":"` + hashOf("the operators' own token") + `","read":"everything","expires":"2300-01-01T00:00:00Z"},
		{"user":"old","sha256":"` + hashOf("a token of years ago, gone") + `","read":"everything","expires":"2020-01-01T00:00:00Z"},
		{"user":"ids","sha256":"` + hashOf("a token that is by ids only") + `","read":[{"org_id":"o-1"}]}]}`)
	var log bytes.Buffer
	a, err := OpenTokens(path, &TokensOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	shop := []envelope.Selector{{App: "shop"}}
	for _, tt := range []struct {
		token string
		asked []envelope.Selector
		user  string
		want  []envelope.Selector
		err   error
	}{
		{annsToken, shop, "ann", []envelope.Selector{{App: "shop"}, {App: "shop", Space: "dev", Org: "acme"}}, nil},
		{annsToken, []envelope.Selector{{SourceID: "gorouter", App: "other", Space: "prod"}}, "ann", nil, ErrDenied},
		{"the operators' own token", envelope.Everything, "ops", envelope.Everything, nil},
		{"a token of years ago, gone", envelope.Everything, "old", nil, ErrToken},
		{"a token that is by ids only", shop, "ids", []envelope.Selector{{App: "shop", Org: "o-1", IDs: true}}, nil},
		{"short", shop, "", nil, ErrToken},
		{annsToken + ".", shop, "", nil, ErrToken},
		{hashOf(annsToken), shop, "", nil, ErrToken},
	} {
		g, err := a.Authorize(t.Context(), tt.token, tt.asked)
		if !errors.Is(err, tt.err) || g.User != tt.user {
			t.Errorf("%q: %+v %v", tt.token, g, err)
		}
		if d := cmp.Diff(tt.want, g.Select); d != "" {
			t.Errorf("%q: %s", tt.token, d)
		}
	}

	again := func() { // as after a second
		a.mu.Lock()
		a.looked = time.Time{}
		a.mu.Unlock()
	}
	ask := func(token string) error {
		again()
		_, err := a.Authorize(t.Context(), token, shop)
		return err
	}
	write("{")
	if err := ask(annsToken); err != nil {
		t.Errorf("a broken file lost the tokens: %v", err)
	}
	ask(annsToken)
	os.Remove(path)
	if err := ask(annsToken); err != nil {
		t.Errorf("no file lost the tokens: %v", err)
	}
	ask(annsToken)
	if n := strings.Count(log.String(), "stay as they were"); n != 2 {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
	write(`{"tokens":[{"user":"bob","sha256":"` + hashOf("bob's token, long enough") + `","read":"everything"}]}`)
	if err := ask(annsToken); !errors.Is(err, ErrToken) {
		t.Errorf("a token that was taken out: %v", err)
	}
	if err := ask("bob's token, long enough"); err != nil {
		t.Errorf("a new token: %v", err)
	}
}

func TestTokenFilesThatMakeNoSense(t *testing.T) {
	token := func(rest string) string {
		return `{"tokens":[{"user":"u","sha256":"` + hashOf("x") + `",` + rest + `}]}`
	}
	for _, tt := range []struct{ text, want string }{
		{"", "it is no file of tokens like"},
		{"[]", "it is no file of tokens like"},
		{`{"tokens":[]}`, "nobody could read"},
		{`{"token":[]}`, `unknown field "token"`},
		{`{"tokens":[]}{}`, "behind its end"},
		{`{"tokens":[{"sha256":"` + hashOf("x") + `","read":"everything"}]}`, "names no user"},
		{`{"tokens":[{"user":"u","sha256":"abc","read":"everything"}]}`, "64 hexadecimal digits"},
		{`{"tokens":[{"user":"u","sha256":"` + hashOf("x") + `00","read":"everything"}]}`, "64 hexadecimal digits"},
		{`{"tokens":[{"user":"u","sha256":"` + strings.Repeat("é", 32) + `","read":"everything"}]}`, "64 hexadecimal digits"},
		{`{"tokens":[{"user":"u","sha256":"` + hashOf("") + `","read":"everything"}]}`, "that of no token"},
		{`{"tokens":[{"user":"u","token":"clear text"}]}`, `unknown field "token"`},
		{token(`"read":"all"`), `"all" is no right to read`},
		{token(`"read":[]`), "it may read nothing"},
		{token(`"read":[{}]`), `for all of them write "everything"`},
		{token(`"read":[{"app":""}]`), `for all of them write "everything"`},
		{token(`"read":[{"apps":"x"}]`), `unknown field "apps"`},
		{token(`"read":[{"app":"x","org_id":"y"}]`), "do not go together"},
		{token(`"read":{"app":"x"}`), "a right to read is"},
		{token(`"read":"everything","expires":"tomorrow"`), "parsing time"},
		{`{"tokens":[{"user":"u","sha256":"` + hashOf("x") + `","read":"everything"},{"user":"v","sha256":"` + hashOf("x") + `","read":"everything"}]}`, "another has the same"},
	} {
		_, err := parseTokens([]byte(tt.text))
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), hashOf("x")) {
			t.Errorf("%s: %v", tt.text, err)
		}
	}
	if _, err := OpenTokens(filepath.Join(t.TempDir(), "none"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// Whatever a file says, nobody gets everything who was not written to.
func FuzzTokens(f *testing.F) {
	f.Add([]byte(`{"tokens":[{"user":"u","sha256":"` + hashOf("x") + `","read":[{"app":"shop"}]}]}`))
	f.Add([]byte(`{"tokens":[{"user":"u","sha256":"` + hashOf("x") + `","read":"everything"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		known, err := parseTokens(text)
		if err != nil {
			return
		}
		for _, b := range known {
			for _, s := range b.read {
				if s.SourceID == "" && s.App == "" && s.Space == "" && s.Org == "" && !bytes.Contains(text, []byte("everything")) && !bytes.Contains(text, []byte(`\u`)) {
					t.Errorf("%s may read everything by %q", b.user, text)
				}
			}
		}
	})
}
