package access

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// MinToken is the least length of a token of a file, in bytes. The file holds
// hashes, and the hash of a short one can be guessed.
const MinToken = 20

const (
	maxTokenFile = 16 << 20
	lookPause    = time.Second
)

// Tokens is an Authorizer by a file of tokens, of which it has the hashes only:
//
//	{"tokens": [
//	  {"user": "ann", "sha256": "2c26b46b68ff…", "read": [{"app": "shop"}, {"space": "dev", "org": "acme"}]},
//	  {"user": "ops", "sha256": "fcde2b2edba5…", "read": "everything", "expires": "2030-01-01T00:00:00Z"}
//	]}
//
// See Permits for what read takes. A token is best made by a machine:
//
//	head -c 32 /dev/urandom | base64 | tr -d '\n' > token; sha256sum < token
//
// The file is read again when it has changed, within a second. One that cannot be
// read or makes no sense changes nothing: the last that did stays in force, and the
// log says so.
type Tokens struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex
	known  map[[sha256.Size]byte]bearer
	file   os.FileInfo
	looked time.Time
}

type bearer struct {
	user    string
	read    Permits
	expires time.Time
}

// TokensOptions configure Tokens. The zero value is useful.
type TokensOptions struct {
	Logger *slog.Logger // of files that cannot be read; default none
}

// OpenTokens reads the file at path. It starts nothing.
func OpenTokens(path string, o *TokensOptions) (*Tokens, error) {
	t := &Tokens{path: path, log: slog.New(slog.DiscardHandler)}
	if o != nil && o.Logger != nil {
		t.log = o.Logger
	}
	known, info, err := readTokens(path)
	if err != nil {
		return nil, err
	}
	t.known, t.file, t.looked = known, info, time.Now()
	return t, nil
}

// Authorize implements Authorizer.
func (t *Tokens) Authorize(_ context.Context, token string, sel []envelope.Selector) (Grant, error) {
	if len(token) < MinToken {
		return Grant{}, fmt.Errorf("%w: one of fewer than %d characters is not taken", ErrToken, MinToken)
	}
	b, ok := t.find(sha256.Sum256([]byte(token)))
	if !ok {
		return Grant{}, fmt.Errorf("%w: it is not known here; ask the server's operator for one", ErrToken)
	}
	if !b.expires.IsZero() && !time.Now().Before(b.expires) {
		return Grant{User: b.user}, fmt.Errorf("%w: it has expired; ask the server's operator for another", ErrToken)
	}
	granted, err := Within(sel, b.read)
	return Grant{User: b.user, Select: granted, Expires: b.expires}, err
}

// find looks a token up, in the file as it is now.
func (t *Tokens) find(hash [sha256.Size]byte) (bearer, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.Sub(t.looked) >= lookPause {
		t.looked = now
		t.look()
	}
	b, ok := t.known[hash]
	return b, ok
}

// look reads the file again if it has changed. The lock is held.
func (t *Tokens) look() {
	info, err := os.Stat(t.path)
	if err == nil && t.file != nil && os.SameFile(info, t.file) && info.ModTime().Equal(t.file.ModTime()) && info.Size() == t.file.Size() {
		return
	}
	if err != nil && t.file == nil {
		return // it has been said
	}
	known, read, err := readTokens(t.path)
	t.file = info // also of one that makes no sense, so that it is named once
	if err != nil {
		t.log.Error("the tokens stay as they were", "error", err)
		return
	}
	t.known, t.file = known, read
	t.log.Info("the tokens have changed", "file", t.path, "tokens", len(known))
}

func readTokens(path string) (map[[sha256.Size]byte]bearer, os.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxTokenFile+1))
	if err != nil {
		return nil, nil, err
	}
	known, err := parseTokens(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return known, info, nil
}

// parseTokens reads a file of tokens. Its errors hold nothing of a hash.
func parseTokens(text []byte) (map[[sha256.Size]byte]bearer, error) {
	if len(text) > maxTokenFile {
		return nil, fmt.Errorf("it is larger than %d MiB", maxTokenFile>>20)
	}
	var file struct {
		Tokens []struct {
			User    string    `json:"user"`
			SHA256  string    `json:"sha256"`
			Read    Permits   `json:"read"`
			Expires time.Time `json:"expires"`
		} `json:"tokens"`
	}
	if err := strictly(text, &file); err != nil {
		return nil, fmt.Errorf(`it is no file of tokens like {"tokens":[{"user":"ann","sha256":"…","read":[{"app":"shop"}]}]}: %w`, err)
	}
	known := make(map[[sha256.Size]byte]bearer, len(file.Tokens))
	for i, t := range file.Tokens {
		wrong := func(why string) error { return fmt.Errorf("token %d, of user %q: %s", i+1, t.User, why) }
		var hash [sha256.Size]byte
		n, err := hex.Decode(hash[:], []byte(t.SHA256)[:min(len(t.SHA256), 2*sha256.Size)])
		switch {
		case t.User == "":
			return nil, wrong("it names no user")
		case err != nil || n != sha256.Size || len(t.SHA256) != 2*sha256.Size:
			return nil, wrong("sha256 is the token's SHA-256 in 64 hexadecimal digits, as printf %s TOKEN | sha256sum prints it")
		case hash == sha256.Sum256(nil):
			return nil, wrong("sha256 is that of no token at all")
		case len(t.Read) == 0:
			return nil, wrong(`it may read nothing; "read" is "everything" or a list like [{"app":"shop"}]`)
		}
		if _, ok := known[hash]; ok {
			return nil, wrong("another has the same sha256")
		}
		known[hash] = bearer{t.User, t.Read, t.Expires}
	}
	if len(known) == 0 {
		return nil, errors.New("it has no tokens, so nobody could read")
	}
	return known, nil
}
