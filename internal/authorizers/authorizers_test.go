package authorizers

import (
	"flag"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFlags(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tokens := file("tokens", `{"tokens":[{"user":"u","sha256":"`+strings.Repeat("ab", 32)+`","read":"everything"}]}`)
	rules := file("rules", `{"rules":[{"claim":"groups","value":"ops","read":"everything"}]}`)
	bad := file("bad", "{")
	log := slog.New(slog.DiscardHandler)
	for _, tt := range []struct {
		args string
		want string // of the error
	}{
		{"", ""},
		{"-auth-tokens " + tokens, ""},
		{"-auth-tokens " + bad, "-auth-tokens: "},
		{"-auth-tokens " + tokens + " -auth-cf https://api -auth-uaa https://uaa", "exclude each other"},
		{"-auth-oidc https://issuer -auth-oidc-audience logs -auth-oidc-rules " + rules, ""},
		{"-auth-oidc https://issuer -auth-oidc-audience logs -auth-oidc-rules " + bad, "-auth-oidc-rules: "},
		{"-auth-oidc http://issuer -auth-oidc-audience logs -auth-oidc-rules " + rules, "must begin with https://"},
		{"-auth-oidc https://issuer", "needs -auth-oidc-audience and -auth-oidc-rules"},
		{"-auth-oidc https://issuer -auth-oidc-audience , -auth-oidc-rules " + rules, "without an audience"},
		{"-auth-oidc-rules " + rules, "go with -auth-oidc"},
		{"-auth-cf https://api -auth-uaa https://uaa", ""},
		{"-auth-cf https://api", "go together"},
		{"-auth-cf api -auth-uaa https://uaa", "address of the Cloud Controller"},
		{"-auth-cf https://api -auth-uaa https://uaa -auth-ca " + bad, "no certificate"},
	} {
		var f Flags
		fs := flag.NewFlagSet("", flag.ContinueOnError)
		fs.SetOutput(io.Discard)
		f.Register(fs)
		if err := fs.Parse(strings.Fields(tt.args)); err != nil {
			t.Fatal(err)
		}
		a, err := f.Open(log)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.args, err)
		}
		if err == nil && (a != nil) != f.Named() {
			t.Errorf("%s: %v", tt.args, a)
		}
	}
}
