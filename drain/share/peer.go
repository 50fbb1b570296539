package share

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// answerTime bounds how long a registry is waited for.
const answerTime = time.Second

// peer is a member's side of one registry. Member.mu guards what follows kick.
type peer struct {
	Server
	m    *Member
	kick chan struct{}

	boot    string
	session uint64
	seq     uint64
	heard   uint64
	join    bool // the session has yet to begin, or
	keep    bool // to begin again with what is held
	lease   *Lease
	renewed time.Time
	members int
	waits   bool // for the registry to give anything away
	err     error
	refused bool // a note found no room, and that was said

	want  map[string]bool // not told yet: wanted, or not any more
	held  map[string]*held
	give  map[string]bool   // of those held
	notes map[string]string // not told yet
}

type held struct {
	note, after string
	release     bool // to be told
}

// begin begins a session in which nothing is held yet.
func (p *peer) begin() {
	now := time.Now()
	p.session++
	p.join, p.keep = true, false
	p.lease = &Lease{base: now}
	if p.renewed.IsZero() {
		p.renewed = now
	}
	p.held, p.give, p.notes = make(map[string]*held), make(map[string]bool), make(map[string]string)
	p.want = make(map[string]bool)
	for key := range p.m.wants {
		p.want[key] = true
	}
}

func (p *peer) note(key, note string) {
	if h := p.held[key]; h != nil && h.note != note {
		h.note, p.notes[key] = note, note
	}
}

// run talks to the registry until the member ends.
func (p *peer) run() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-p.kick:
		case <-p.m.ctx.Done():
			return
		}
		more, done := p.exchange()
		if done {
			return
		}
		wait := Interval
		if more {
			wait = 0
		}
		pause.Reset(wait)
	}
}

// exchange posts once. There may be more to say at once; it is done when the
// registry knows that the member has left.
func (p *peer) exchange() (more, done bool) {
	p.m.mu.Lock()
	q := p.request()
	p.m.mu.Unlock()
	sent := time.Now()
	a, err := p.post(q)
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.m.ctx.Err() != nil {
		return false, true
	}
	if err != nil {
		if p.err == nil {
			p.m.log.Warn("what drains are whose is not known of a server; trying again", "server", p.Name, "error", err.Error())
		}
		p.err = fmt.Errorf("%s: %w", p.Name, err)
		return false, false
	}
	if p.err != nil {
		p.m.log.Info("a server says again what drains are whose", "server", p.Name)
		p.err = nil
	}
	if !a.Known {
		if a.Boot != p.boot && p.lease.Valid() && !p.join {
			p.join, p.keep = true, true // it was restarted, and the lease is valid
		} else {
			p.begin()
		}
		signal(p.m.changed)
		return true, q.Leave
	}
	p.take(q, a, sent)
	return len(p.notes) > 0, q.Leave
}

// request is the next one. The caller holds m.mu.
func (p *peer) request() *request {
	p.seq++
	q := &request{Group: p.m.group, Member: p.m.id, Name: p.m.name, Session: p.session, Seq: p.seq, Heard: p.heard,
		Join: p.join, Leave: p.m.leaving, Notes: make(map[string]string)}
	if p.keep {
		q.Keep = sorted(p.held)
		for key, h := range p.held {
			if h.note != "" {
				p.notes[key] = h.note
			}
		}
		for key := range p.m.wants {
			if _, ok := p.want[key]; !ok {
				p.want[key] = true
			}
		}
	}
	for _, key := range sorted(p.want) {
		if p.want[key] {
			q.Want = append(q.Want, key)
		} else {
			q.Drop = append(q.Drop, key)
		}
	}
	size := 0
	for key, note := range p.notes {
		if len(note) > maxNote {
			delete(p.notes, key)
			p.complain("its note is too long")
			continue
		}
		if size > 0 && size+len(note) > sendNotes && !q.Leave {
			continue
		}
		q.Notes[key] = note
		size += len(note) + len(key)
	}
	for _, key := range sorted(p.held) {
		if _, waits := p.notes[key]; p.held[key].release && (!waits || q.Notes[key] != "") {
			q.Release = append(q.Release, key)
		}
	}
	return q
}

// take takes an answer. The caller holds m.mu.
func (p *peer) take(q *request, a *answer, sent time.Time) {
	news := p.members != a.Members || p.join || !p.lease.Valid()
	p.boot, p.heard, p.members, p.waits = a.Boot, q.Seq, a.Members, a.Wait
	for key, note := range q.Notes {
		if p.notes[key] == note {
			delete(p.notes, key)
		}
	}
	for _, key := range q.Want { // unless it is the other way round by now
		if now, ok := p.want[key]; ok && now {
			delete(p.want, key)
		}
	}
	for _, key := range q.Drop {
		delete(p.held, key)
		delete(p.notes, key)
		if now, ok := p.want[key]; ok && !now {
			delete(p.want, key)
		}
	}
	for _, key := range q.Release {
		if h := p.held[key]; h != nil && h.release {
			delete(p.held, key)
			news = true
		}
	}
	if q.Join && len(q.Keep) > 0 {
		kept := make(map[string]bool)
		for _, g := range a.Granted {
			kept[g.Piece] = kept[g.Piece] || g.Kept
		}
		if !maps.EqualFunc(p.held, kept, func(*held, bool) bool { return true }) {
			// Something is lost: who works under the old lease has to stop, and
			// to ask again.
			maps.DeleteFunc(p.held, func(key string, _ *held) bool { return !kept[key] })
			p.lease = &Lease{base: time.Now()}
		}
	}
	p.join, p.keep = false, false
	for _, g := range a.Granted {
		if _, wanted := p.m.wants[g.Piece]; g.Kept || !wanted || p.held[g.Piece] != nil {
			continue
		}
		p.held[g.Piece] = &held{note: g.Note, after: g.After}
		news = true
	}
	give := make(map[string]bool, len(a.Give))
	for _, key := range a.Give {
		give[key] = true
	}
	if !maps.Equal(p.give, give) {
		p.give, news = give, true
	}
	if len(a.Refused) > 0 {
		p.complain("the server has no room for it")
	}
	p.renewed = sent
	p.lease.until.Store(int64(sent.Add(LeaseTime).Sub(p.lease.base)))
	if news {
		signal(p.m.changed)
	}
}

func (p *peer) complain(reason string) {
	if !p.refused {
		p.refused = true
		p.m.log.Warn("the place of a drain is not kept at a server: should this process be killed, more is sent again", "server", p.Name, "reason", reason)
	}
}

// post makes one request.
func (p *peer) post(q *request) (*answer, error) {
	ctx, cancel := context.WithTimeout(p.m.ctx, answerTime)
	defer cancel()
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("share: no request can be made for the URL")
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.HTTP.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok { // its text holds the URL
			err = e.Err
		}
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 2*MaxRequest))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		reason, _, _ := strings.Cut(string(text[:min(len(text), 200)]), "\n")
		return nil, fmt.Errorf("answered %s: %s", resp.Status, reason)
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil || a.Boot == "" {
		return nil, errors.New("answered what is no answer: is it a Loggregator server?")
	}
	return &a, nil
}
