package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"github.com/cloudfoundry/loggregator/envelope"
)

// maxMessage bounds one batch from the server, in bytes.
const maxMessage = 8 << 20

// server is whom to ask, and for what.
type server struct {
	opt        *options
	what, name string // app, space or org
	base       *url.URL
	token      string
	client     http.Client
}

func (s *server) setTarget(target string) error {
	u, err := url.Parse(target)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("--target takes an address like http://127.0.0.1:8080")
	}
	s.base = u
	return nil
}

// String is the address without what may be secret in it.
func (s *server) String() string { return s.base.Scheme + "://" + s.base.Host }

// url is the address of an endpoint, with what the flags ask for and where to
// begin.
func (s *server) url(endpoint string, start url.Values) string {
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
	u := s.base.JoinPath("v1", endpoint)
	u.RawQuery = q.Encode()
	return u.String()
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
		h.Set("Authorization", s.token)
	}
	return h
}

// dump prints what is held.
func (s *server) dump(ctx context.Context, print func(envelope.Batch) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url("recent", s.start()), nil)
	if err != nil {
		return err
	}
	req.Header = s.header()
	resp, err := s.client.Do(req)
	if err != nil {
		return s.unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return s.refused(resp)
	}
	if resp.Header.Get("Content-Type") != "application/x-protobuf" {
		return s.foreign()
	}
	r := bufio.NewReaderSize(resp.Body, 64<<10)
	var message []byte
	for {
		n, err := binary.ReadUvarint(r)
		if err == io.EOF {
			return nil
		}
		if err == nil && n > maxMessage {
			return s.foreign()
		}
		if err == nil {
			message = grow(message, int(n))
			_, err = io.ReadFull(r, message)
		}
		if err != nil {
			return fmt.Errorf("the connection to %s broke before the end", s)
		}
		b, err := envelope.ParseBatch(message)
		if err != nil {
			return s.foreign()
		}
		if err := print(b); err != nil {
			return err
		}
	}
}

// grow returns a slice of n bytes, b's memory if that is enough.
func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n, n+n/4)
	}
	return b[:n]
}

// refusal is an answer of the server other than logs.
type refusal struct {
	status   int
	sentence string
}

func (e *refusal) Error() string { return e.sentence }

// refused reads the server's reason.
func (s *server) refused(resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
	reason, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		reason = "" // a page of something else
	}
	e := &refusal{status: resp.StatusCode}
	switch {
	case e.status == http.StatusUnauthorized || e.status == http.StatusForbidden:
		e.sentence = fmt.Sprintf("%s refused the token: log in with cf login", s)
		if s.token == "" {
			e.sentence = fmt.Sprintf("%s wants a token: log in with cf login", s)
		}
	case e.status == http.StatusNotFound && strings.Contains(reason, "is not known"):
		e.sentence = fmt.Sprintf("%s %q is not known at %s: it has not logged lately", s.what, s.name, s)
		if !s.opt.recent {
			e.sentence += "; --wait waits for it"
		}
	case reason != "":
		e.sentence = fmt.Sprintf("%s: %s", s, reason)
	default:
		e.sentence = fmt.Sprintf("%s answered %q: is it a Loggregator server?", s, resp.Status)
	}
	return e
}

func (s *server) foreign() error {
	return &refusal{sentence: fmt.Sprintf("%s sent what is no batch of logs: is it a Loggregator server?", s)}
}

// unreachable puts the error of a failed request into a sentence, without the
// address that net/http puts into its own.
func (s *server) unreachable(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		err = op.Err
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("cannot reach %s: connection refused; is the server running, is --target right?", s)
	}
	return fmt.Errorf("cannot reach %s: %w", s, err)
}
