package jwt

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"
)

// How keys are kept. A key that its issuer has taken back is good for at most
// keysAge, or keysStale if the issuer cannot be asked.
const (
	keysAge   = 10 * time.Minute
	keysStale = time.Hour
	keysPause = 5 * time.Second // between requests, however many tokens name keys that are not there
	maxKeys   = 100
)

// Keys are an issuer's public keys, asked for when they are needed: at first, when
// a token names one that is not there, and when they are old.
type Keys struct {
	client *http.Client
	locate func(context.Context) (string, error)
	asking singleflight.Group

	mu      sync.Mutex
	keys    []jose.JSONWebKey
	fetched time.Time // last with success
	asked   time.Time // last at all
	err     error     // of that
}

// NewKeys are those at the address that locate says, which is asked each time.
func NewKeys(client *http.Client, locate func(context.Context) (string, error)) *Keys {
	return &Keys{client: client, locate: locate}
}

// find returns the keys by that id, or all if it is empty.
func (k *Keys) find(ctx context.Context, id string) ([]jose.JSONWebKey, error) {
	k.mu.Lock()
	found := k.byID(id)
	now := time.Now()
	old, pausing := now.Sub(k.fetched) >= keysAge, !k.asked.IsZero() && now.Sub(k.asked) < keysPause
	k.mu.Unlock()
	if len(found) > 0 && !old {
		return found, nil
	}
	if !pausing {
		select {
		case <-k.asking.DoChan("", func() (any, error) { k.fetch(); return nil, nil }):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	found = k.byID(id)
	switch {
	case k.err != nil && (len(found) == 0 || time.Since(k.fetched) >= keysStale):
		return nil, fmt.Errorf("the issuer's keys cannot be had: %w", k.err)
	case len(found) == 0:
		return nil, refuse("it is signed with a key that its issuer does not have now; log in again")
	}
	return found, nil
}

func (k *Keys) byID(id string) []jose.JSONWebKey {
	var found []jose.JSONWebKey
	for _, key := range k.keys {
		if id == "" || key.KeyID == id {
			found = append(found, key)
		}
	}
	return found
}

// fetch asks the issuer. It serves all who wait, so it is nobody's context.
func (k *Keys) fetch() {
	k.mu.Lock()
	again := !k.asked.IsZero() && time.Since(k.asked) < keysPause
	k.mu.Unlock()
	if again { // by who came when the last request had just ended
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	keys, err := k.get(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked, k.err = time.Now(), err
	if err == nil {
		k.keys, k.fetched = keys, k.asked
	}
}

func (k *Keys) get(ctx context.Context) ([]jose.JSONWebKey, error) {
	url, err := k.locate(ctx)
	if err != nil {
		return nil, err
	}
	// One by one: a key of a kind that is not known spoils none of the others.
	var set struct {
		Keys []rawKey `json:"keys"`
	}
	if err := GetJSON(ctx, k.client, url, "", &set); err != nil {
		return nil, err
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		key := raw.JSONWebKey
		if key.Key == nil || !key.Valid() || !key.IsPublic() || key.Use != "" && key.Use != "sig" {
			continue
		}
		if keys = append(keys, key); len(keys) > maxKeys {
			return nil, fmt.Errorf("%s names more than %d keys", Host(url), maxKeys)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New(Host(url) + " names no public key to check signatures with")
	}
	return keys, nil
}

// rawKey is a key, or nothing where it cannot be read.
type rawKey struct{ jose.JSONWebKey }

func (k *rawKey) UnmarshalJSON(text []byte) error {
	if err := k.JSONWebKey.UnmarshalJSON(text); err != nil {
		k.JSONWebKey = jose.JSONWebKey{}
	}
	return nil
}
