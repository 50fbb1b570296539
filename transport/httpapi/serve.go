package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/cloudfoundry/loggregator/transport/access"
)

// ServeHTTP serves the endpoints. For a WebSocket it returns after the
// handshake; the tail goes on until Shutdown.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff") // lines may look like HTML
	w.Header().Set("Cache-Control", "no-store")
	f, acceptable := negotiate(r.Header.Values("Accept"))
	refuse := func(status int, format string, args ...any) { refuse(w, f, status, fmt.Sprintf(format, args...)) }

	switch r.URL.Path {
	case "/", "/v1/recent", "/v1/tail":
	default:
		refuse(http.StatusNotFound, noPage)
		return
	}
	if r.URL.RawPath != "" { // /v1/%72ecent: whoever guards paths on the way here must see what we see
		refuse(http.StatusNotFound, noPage)
		return
	}
	if sentence := h.gate.Elsewhere(r); sentence != "" {
		refuse(http.StatusForbidden, "%s", sentence)
		return
	}
	if r.Method != http.MethodGet && (r.Method != http.MethodPost || r.URL.Path == "/") {
		if w.Header().Set("Allow", "GET, POST"); r.URL.Path == "/" {
			w.Header().Set("Allow", "GET")
		}
		refuse(http.StatusMethodNotAllowed, "this page takes GET, or its parameters by POST")
		return
	}
	if r.URL.Path == "/" {
		w.Header().Set("Content-Type", contentTypes[text])
		fmt.Fprint(w, strings.ReplaceAll(help, "{host}", r.Host))
		return
	}
	if len(r.URL.Path)+len(r.URL.RawQuery) > MaxURL {
		refuse(http.StatusRequestURITooLong, "the address is longer than %d KiB", MaxURL>>10)
		return
	}
	upgrade := r.URL.Path == "/v1/tail" && isUpgrade(r.Header)
	if !acceptable && !upgrade {
		refuse(http.StatusNotAcceptable, "Accept takes text/plain, application/x-ndjson or application/x-protobuf")
		return
	}
	query := r.URL.RawQuery
	if r.Method == http.MethodPost {
		form, status, err := readForm(w, r)
		if err != nil {
			refuse(status, "%s", err)
			return
		}
		query += "&" + form
	}
	p, err := parseParams(query, time.Now())
	if err != nil {
		refuse(http.StatusBadRequest, "%s", err)
		return
	}
	tail := r.URL.Path == "/v1/tail"
	if p.query.Shard != "" && !tail {
		refuse(http.StatusBadRequest, "parameter shard is for /v1/tail")
		return
	}
	token := access.BearerToken(r)
	ctx := access.WithPeer(r.Context(), r.RemoteAddr)
	pass, err := h.gate.Admit(ctx, token, p.query.Select)
	if err != nil {
		status, sentence := access.Explain(err)
		switch status {
		case http.StatusUnauthorized: // RFC 6750, section 3
			w.Header().Set("WWW-Authenticate", `Bearer realm="loggregator"`)
			if r.Header.Get("Authorization") != "" {
				w.Header().Set("WWW-Authenticate", `Bearer realm="loggregator", error="invalid_token"`)
			}
		case http.StatusNotFound:
			sentence = p.notYours()
		default:
			w.Header().Set("Retry-After", "5")
		}
		refuse(status, "%s", sentence)
		return
	}
	if unknown := h.unknown(ctx, token, pass, &p, tail); unknown != "" {
		pass.Close()
		refuse(http.StatusNotFound, "%s", unknown)
		return
	}
	rd, err := h.enter(pass)
	if err != nil {
		pass.Close()
		w.Header().Set("Retry-After", "5")
		refuse(http.StatusServiceUnavailable, "the server is shutting down; try again later")
		return
	}

	q := p.query
	q.Follow = tail
	q.History = !tail
	switch p.order {
	case "":
		q.ByTime = !tail || !upgrade && f != protobuf
	case "time":
		q.ByTime = true
	}
	if upgrade {
		h.serveWebSocket(w, r, rd, q)
	} else {
		h.serveStream(w, r, rd, q, f, p.many)
	}
}

// maxForm bounds the parameters of a POST, in bytes. A cursor of
// envelope.MaxCursor places fits.
const maxForm = 4 << 20

// readForm reads parameters that are too long for an address.
func readForm(w http.ResponseWriter, r *http.Request) (form string, status int, err error) {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/x-www-form-urlencoded" {
		return "", http.StatusUnsupportedMediaType, errors.New("a POST holds parameters as application/x-www-form-urlencoded")
	}
	if r.Header.Get("Content-Encoding") != "" {
		return "", http.StatusUnsupportedMediaType, errors.New("a POST holds parameters as they are, without Content-Encoding")
	}
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(30 * time.Second))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	http.NewResponseController(w).SetReadDeadline(time.Time{})
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return "", http.StatusRequestEntityTooLarge, fmt.Errorf("the parameters are longer than %d MiB", maxForm>>20)
	}
	if err != nil {
		return "", http.StatusBadRequest, errors.New("the request broke off")
	}
	return string(body), 0, nil
}

// unknown is the sentence for a request that asks for what is not here, or empty.
func (h *Handler) unknown(ctx context.Context, token string, pass *access.Pass, p *params, tail bool) string {
	if p.wait {
		return ""
	}
	for _, n := range p.apps {
		known := pass.Known
		if len(p.apps) > 1 {
			known = func() bool { return h.gate.Known(ctx, token, n.sel) }
		}
		if !known() {
			if h.gate.Restricted() {
				return p.notYours()
			}
			return fmt.Sprintf("%s %q is not known here: it has not logged lately; wait=true waits for it", n.what, shorten(n.value))
		}
	}
	if what, value := p.place(); len(p.apps) == 0 && !tail && what != "" && !pass.Known() {
		if h.gate.Restricted() {
			return p.notYours()
		}
		return fmt.Sprintf("%s %q is not known here: no app of it has logged lately", what, shorten(value))
	}
	return ""
}

// place is the first space, or org, that is asked for.
func (p *params) place() (what, value string) {
	switch s := p.query.Select[0]; {
	case s.Space != "":
		return "space", s.Space
	case s.Org != "":
		return "org", s.Org
	}
	return "", ""
}

// notYours is the one sentence for what the reader may not see and for what is
// not there: it is made of what he asked alone, so he learns nothing from it.
func (p *params) notYours() string {
	const why = "nothing that you may read has logged by that name lately; wait=true waits for what you may read"
	what, value := p.place()
	switch {
	case len(p.apps) > 1:
		return fmt.Sprintf("one of the %d that you named is not known here: %s", len(p.apps), why)
	case len(p.apps) == 1:
		what, value = p.apps[0].what, p.apps[0].value
	case what == "":
		return "there is nothing here that you may read"
	}
	return fmt.Sprintf("%s %q is not known here: %s", what, shorten(value), why)
}

// refuse answers with one sentence, as JSON if the client wants JSON.
func refuse(w http.ResponseWriter, f format, status int, sentence string) {
	if f == ndjson {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		body, _ := json.Marshal(map[string]string{"error": sentence})
		w.Write(append(body, '\n'))
		return
	}
	w.Header().Set("Content-Type", contentTypes[text])
	w.WriteHeader(status)
	fmt.Fprintln(w, sentence)
}

func isUpgrade(header http.Header) bool {
	for _, v := range header.Values("Upgrade") {
		for token := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(token), "websocket") {
				return true
			}
		}
	}
	return false
}

const noPage = "there is no such page; GET / names those that there are"

const help = `Loggregator: the logs of applications, as they are written.

  curl 'http://{host}/v1/tail?app=NAME'         follow an app
  curl 'http://{host}/v1/recent?app=NAME'       what is held of it, then end
  curl 'http://{host}/v1/tail?space=dev&stream=err&since=10m'
  curl -H 'Accept: application/x-ndjson' 'http://{host}/v1/recent?source_id=ID&lines=100'

Which records
  app=, space=, org=, source_id=   names or ids, repeatable; an app within a space
                                   within an org; none of them: everything
  stream=out|err  instance=  source_type=  kind=log|counter|gauge|timer|event

From where (one of them; else recent gives everything, tail starts now)
  since=10m or since=2006-01-02T15:04:05Z   lines=100   cursor=

Else
  order=time|source                merged by timestamp, or cheaper and app by app
  shard=NAME                       tails of one name split the apps between them
  wait=true                        wait for an app that has not logged yet
  Authorization: Bearer TOKEN      where one is needed to read
  Accept: text/plain               lines to read (the default)
          application/x-ndjson     one JSON object a line
          application/x-protobuf   EnvelopeBatch messages, each behind its length
  /v1/tail is a WebSocket, too: a binary message is one EnvelopeBatch.

Lines that were lost before they could be read are told of in their place:
  -- 123 lines missed --
`

var _ http.Handler = (*Handler)(nil)
