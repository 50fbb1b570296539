package jwt

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/cloudfoundry/loggregator/transport/access"
)

// issuer is a stand-in that answers requests for keys.
type issuer struct {
	mu    sync.Mutex
	set   any
	away  bool
	slow  time.Duration
	asked int
}

func (i *issuer) RoundTrip(*http.Request) (*http.Response, error) {
	i.mu.Lock()
	i.asked++
	away, slow := i.away, i.slow
	body, _ := json.Marshal(i.set)
	i.mu.Unlock()
	time.Sleep(slow)
	if away {
		return nil, errors.New("no route to host")
	}
	return &http.Response{StatusCode: 200, Body: io.NopCloser(bytes.NewReader(body))}, nil
}

func (i *issuer) tell(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f()
}

func keySet(t *testing.T, ids ...string) jose.JSONWebKeySet {
	var set jose.JSONWebKeySet
	for _, id := range ids {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: id, Use: "sig"})
	}
	return set
}

func keysOf(i *issuer) *Keys {
	return NewKeys(&http.Client{Transport: i}, func(context.Context) (string, error) { return "https://issuer.test/keys", nil })
}

func TestKeysAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{set: keySet(t, "a", "b")}
		k := keysOf(i)
		find := func(id string, want error) {
			t.Helper()
			found, err := k.find(t.Context(), id)
			if !errors.Is(err, want) || (len(found) == 1) != (want == nil) {
				t.Errorf("%s: %d keys, %v", id, len(found), err)
			}
		}
		asked := func(want int) {
			t.Helper()
			if i.asked != want {
				t.Errorf("asked %d times, want %d", i.asked, want)
			}
		}
		find("a", nil)
		find("b", nil)
		find("c", access.ErrToken) // just asked
		asked(1)
		if all, err := k.find(t.Context(), ""); err != nil || len(all) != 2 {
			t.Errorf("without a name: %d, %v", len(all), err)
		}

		// A new one is found as soon as the issuer may be asked again.
		i.tell(func() { i.set = keySet(t, "b", "c") })
		time.Sleep(keysPause)
		find("c", nil)
		asked(2)
		// And one that was taken back is gone.
		time.Sleep(keysPause)
		find("a", access.ErrToken)
		asked(3)

		// What is old is asked for, and good for a while if nobody answers.
		i.tell(func() { i.away = true })
		time.Sleep(keysAge)
		find("b", nil)
		asked(4)
		find("b", nil)
		asked(4)
		if _, err := k.find(t.Context(), "new"); err == nil || errors.Is(err, access.ErrToken) || !strings.Contains(err.Error(), "cannot be had") {
			t.Errorf("nobody can tell: %v", err)
		}
		time.Sleep(keysStale)
		if _, err := k.find(t.Context(), "b"); err == nil || errors.Is(err, access.ErrToken) {
			t.Errorf("much too old: %v", err)
		}
		i.tell(func() { i.away = false })
		time.Sleep(keysPause)
		find("b", nil)
	})
}

// However many wait, the issuer is asked once, and nobody waits for longer than
// he likes.
func TestManyWaitForOneAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{set: keySet(t, "a"), slow: 3 * time.Second}
		k := keysOf(i)
		var waiting sync.WaitGroup
		for range 100 {
			waiting.Go(func() {
				if _, err := k.find(t.Context(), "a"); err != nil {
					t.Error(err)
				}
			})
		}
		waiting.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start := time.Now()
			if _, err := k.find(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
		waiting.Wait()
		if i.asked != 1 {
			t.Errorf("asked %d times", i.asked)
		}
	})
}

// Keys that are none, secret, or for something else are not taken.
func TestKeysThatAreNotTaken(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	many := jose.JSONWebKeySet{}
	for range maxKeys + 1 {
		many.Keys = append(many.Keys, keySet(t, "x").Keys...)
	}
	for name, set := range map[string]any{
		"nothing":      map[string]any{},
		"a list":       []string{"x"},
		"no keys":      jose.JSONWebKeySet{},
		"a secret":     map[string]any{"keys": []any{map[string]string{"kty": "oct", "kid": "x", "k": "c2VjcmV0"}}},
		"private":      jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: private, KeyID: "x"}}},
		"to encrypt":   jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: private.Public(), KeyID: "x", Use: "enc"}}},
		"unknown":      map[string]any{"keys": []any{map[string]string{"kty": "XYZ", "kid": "x"}, nil, 7, "x"}},
		"a weak curve": map[string]any{"keys": []any{map[string]string{"kty": "EC", "crv": "P-1", "kid": "x", "x": "AA", "y": "AA"}}},
		"too many":     many,
	} {
		k := keysOf(&issuer{set: set})
		if found, err := k.find(t.Context(), "x"); err == nil || errors.Is(err, access.ErrToken) {
			t.Errorf("%s: %d, %v", name, len(found), err)
		}
	}
}
