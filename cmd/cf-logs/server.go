package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/httpclient"
)

// server is whom to ask, and for what.
type server struct {
	opt        *options
	what, name string // app, space or org
	token      string // to be sent
	without    string // why there is none, though there is one for others
	target     *url.URL
	client     http.Client
	logs       *httpclient.Client
}

func (s *server) setTarget(target string, config cfConfig) error {
	if u, err := url.Parse(target); err == nil {
		s.target = u
		s.token, s.without = tokenFor(u, config)
	}
	// Who is sent on would take the token along to where it may not belong.
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	var err error
	if s.logs, err = httpclient.New(target, &httpclient.Options{HTTP: &s.client, Header: s.header()}); err != nil {
		return errors.New("--target takes an address like http://127.0.0.1:8080")
	}
	return nil
}

// renew reports whether there is another token by now: the cf client gets one
// whenever it is used and its own has run out.
func (s *server) renew() bool {
	token, _ := tokenFor(s.target, readConfig())
	if token == "" || token == s.token {
		return false
	}
	s.token = token
	return true
}

// String is the address without what may be secret in it.
func (s *server) String() string { return s.logs.String() }

// params is what the flags ask for, and where to begin.
func (s *server) params(start url.Values) url.Values {
	q := url.Values{s.what: {s.name}, "kind": {"log"}}
	if s.opt.several() {
		q.Set("order", "time")
	}
	if s.opt.stdout != s.opt.stderr {
		q.Set("stream", map[bool]string{true: "out", false: "err"}[s.opt.stdout])
	}
	if s.opt.instance != "" {
		q.Set("instance", s.opt.instance)
	}
	if s.opt.wait {
		q.Set("wait", "true")
	}
	for k, v := range start {
		q[k] = v
	}
	return q
}

// start is where the flags let the logs begin.
func (s *server) start() url.Values {
	switch {
	case s.opt.since != "":
		return url.Values{"since": {s.opt.since}}
	case s.opt.lines > 0:
		return url.Values{"lines": {strconv.Itoa(s.opt.lines)}}
	case s.opt.lines < 0 && !s.opt.recent:
		return url.Values{"lines": {"10"}}
	}
	return nil
}

func (s *server) header() http.Header {
	h := http.Header{"Accept": {"application/x-protobuf"}, "User-Agent": {"cf-logs"}}
	if s.token != "" {
		h.Set("Authorization", "Bearer "+s.token)
	}
	return h
}

// dump prints what is held.
func (s *server) dump(ctx context.Context, print func(envelope.Batch) error) error {
	err := s.logs.Stream(ctx, "recent", s.params(s.start()), nil, print)
	if answer, ok := errors.AsType[*httpclient.AnswerError](err); ok {
		return s.refused(answer)
	}
	if broken, ok := errors.AsType[*httpclient.UnreachableError](err); ok {
		return s.unreachable(broken)
	}
	if _, ok := errors.AsType[*httpclient.BrokenError](err); ok {
		return fmt.Errorf("the connection to %s broke before the end", s)
	}
	if errors.Is(err, httpclient.ErrForeign) {
		return s.foreign()
	}
	return err
}

// refusal is an answer of the server other than logs.
type refusal struct {
	status   int
	sentence string
}

func (e *refusal) Error() string { return e.sentence }

// refused puts an answer other than logs into a sentence.
func (s *server) refused(answer *httpclient.AnswerError) error {
	reason := answer.Reason
	e := &refusal{status: answer.Status}
	switch {
	case e.status == http.StatusUnauthorized && s.token == "":
		e.sentence = fmt.Sprintf("%s wants a token: log in with cf login, or set $%s", s, tokenVariable)
		if s.without != "" {
			e.sentence = fmt.Sprintf("%s wants a token: %s", s, s.without)
		}
	case e.status == http.StatusUnauthorized:
		why, ok := strings.CutPrefix(reason, "token refused: ")
		if !ok {
			why = "log in with cf login"
		}
		e.sentence = fmt.Sprintf("%s refused the token: %s", s, why)
	case e.status == http.StatusNotFound && strings.Contains(reason, "is not known"):
		e.sentence = fmt.Sprintf("%s %q is not known at %s: it has not logged lately", s.what, s.name, s)
		if s.token != "" {
			e.sentence = fmt.Sprintf("%s %q is not known at %s: none that you may read has logged lately", s.what, s.name, s)
		}
		if !s.opt.recent {
			e.sentence += "; --wait waits for it"
		}
	case reason != "":
		e.sentence = fmt.Sprintf("%s: %s", s, reason)
	default:
		e.sentence = fmt.Sprintf("%s answered %q: is it a Loggregator server?", s, answer.Text)
	}
	return e
}

func (s *server) foreign() error {
	return &refusal{sentence: fmt.Sprintf("%s %v", s, httpclient.ErrForeign)}
}

// unreachable puts the error of a request without an answer into a sentence.
func (s *server) unreachable(err *httpclient.UnreachableError) error {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("cannot reach %s: connection refused; is the server running, is --target right?", s)
	}
	return fmt.Errorf("cannot reach %s: %w", s, err.Err)
}
