package cloudfoundry

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/access/internal/jwt"
)

const (
	// maxCached bounds the ids in kept answers, a question counted as four.
	maxCached = 200_000
	// maxAsking bounds the requests to the Cloud Controller at a time, maxAskingOne
	// those of one user: who asks for much waits for himself.
	maxAsking    = 32
	maxAskingOne = 8
)

// controller is a Cloud Controller (its API v3) and its last answers.
type controller struct {
	api    string
	client *http.Client
	keep   time.Duration
	max    int

	asking singleflight.Group
	turn   chan struct{}

	mu      sync.Mutex
	users   map[string]*turns // who are asking, or wait
	answers map[question]answer
	cached  int // ids in answers
}

// turns are those of one user.
type turns struct {
	turn chan struct{}
	refs int
}

// question is one that was asked with one token.
type question struct {
	token [sha256.Size]byte
	query string
}

type answer struct {
	ids   []string
	until time.Time
}

func newController(api string, client *http.Client, keep time.Duration, max int) controller {
	return controller{api: api, client: client, keep: keep, max: max,
		turn: make(chan struct{}, maxAsking), users: make(map[string]*turns), answers: make(map[question]answer)}
}

// list returns the ids of all resources of a kind that q describes and the bearer
// of token, who is user, may see. They are not to be changed.
func (c *controller) list(ctx context.Context, user, token, kind string, q url.Values) ([]string, error) {
	key := c.question(token, kind, q)
	c.mu.Lock()
	a, ok := c.answers[key]
	c.mu.Unlock()
	if ok && time.Now().Before(a.until) {
		return a.ids, nil
	}
	// All who ask the same wait for one answer, which is nobody's alone.
	got := c.asking.DoChan(string(key.token[:])+key.query, func() (any, error) {
		ids, err := c.ask(context.WithoutCancel(ctx), user, token, key.query)
		if err == nil {
			c.remember(key, ids)
		}
		return ids, err
	})
	select {
	case r := <-got:
		ids, _ := r.Val.([]string)
		return ids, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *controller) question(token, kind string, q url.Values) question {
	q.Set("per_page", strconv.Itoa(c.max))
	return question{sha256.Sum256([]byte(token)), kind + "?" + q.Encode()}
}

// know keeps an answer to a question that need not be asked any more.
func (c *controller) know(token, kind string, q url.Values, ids []string) {
	c.remember(c.question(token, kind, q), ids)
}

// ask makes the request.
func (c *controller) ask(ctx context.Context, user, token, query string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	leave, err := c.enter(ctx, user)
	if err != nil {
		return nil, err
	}
	defer leave()
	var list struct {
		Pagination *struct {
			Total int `json:"total_results"`
		} `json:"pagination"`
		Resources []struct {
			GUID string `json:"guid"`
		} `json:"resources"`
	}
	if err := jwt.GetJSON(ctx, c.client, c.api+query, token, &list); err != nil {
		return nil, err
	}
	if list.Pagination == nil {
		return nil, fmt.Errorf("%s answers with what is not a list: is it a Cloud Controller?", jwt.Host(c.api))
	}
	if list.Pagination.Total > c.max || len(list.Resources) > c.max {
		return nil, fmt.Errorf("%w: that is more than %d applications or spaces; ask for less: a space, or an application", access.ErrUserBusy, c.max)
	}
	ids := make([]string, 0, len(list.Resources))
	for _, r := range list.Resources {
		if !isID(r.GUID) { // an empty one would be everything
			return nil, fmt.Errorf("%s lists what has no id: is it a Cloud Controller?", jwt.Host(c.api))
		}
		ids = append(ids, r.GUID)
	}
	return ids, nil
}

// enter waits for the user's turn.
func (c *controller) enter(ctx context.Context, user string) (leave func(), err error) {
	c.mu.Lock()
	own := c.users[user]
	if own == nil {
		own = &turns{turn: make(chan struct{}, maxAskingOne)}
		c.users[user] = own
	}
	own.refs++
	c.mu.Unlock()
	taken := 0
	leave = func() {
		if taken > 1 {
			<-c.turn
		}
		if taken > 0 {
			<-own.turn
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if own.refs--; own.refs == 0 {
			delete(c.users, user)
		}
	}
	for _, turn := range []chan struct{}{own.turn, c.turn} {
		select {
		case turn <- struct{}{}:
			taken++
		case <-ctx.Done():
			leave()
			return nil, fmt.Errorf("the Cloud Controller is too slow: %w", ctx.Err())
		}
	}
	return leave, nil
}

// askTimeout bounds one question, waiting for a turn included.
const askTimeout = 10 * time.Second

// remember keeps an answer, for which others may have to go: those that are too
// old, then any.
func (c *controller) remember(key question, ids []string) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(key)
	size := sizeOf(ids)
	if size > maxCached {
		return
	}
	if c.cached+size > maxCached {
		for k, a := range c.answers {
			if !now.Before(a.until) {
				c.forget(k)
			}
		}
	}
	for k := range c.answers {
		if c.cached+size <= maxCached {
			break
		}
		c.forget(k)
	}
	c.answers[key] = answer{ids, now.Add(c.keep)}
	c.cached += size
}

func (c *controller) forget(key question) {
	if a, ok := c.answers[key]; ok {
		c.cached -= sizeOf(a.ids)
		delete(c.answers, key)
	}
}

// sizeOf counts an answer's ids, and its question as four.
func sizeOf(ids []string) int { return 4 + len(ids) }
