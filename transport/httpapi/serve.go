package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
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
		refuse(http.StatusNotFound, "there is no such page; GET / names those that there are")
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
	if h.opt.Authorize != nil {
		if err := h.opt.Authorize(r, p.query.Select); err != nil {
			w.Header().Set("WWW-Authenticate", `Bearer realm="loggregator"`)
			refuse(http.StatusUnauthorized, "token refused")
			return
		}
	}
	if unknown := h.unknown(&p, tail); unknown != "" {
		refuse(http.StatusNotFound, "%s", unknown)
		return
	}
	rd, err := h.enter()
	if err != nil {
		w.Header().Set("Retry-After", "5")
		if errors.Is(err, errTooMany) {
			refuse(http.StatusServiceUnavailable, "%d readers are being served, which is the limit; try again later", h.opt.MaxReaders)
		} else {
			refuse(http.StatusServiceUnavailable, "the server is shutting down; try again later")
		}
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
func (h *Handler) unknown(p *params, tail bool) string {
	if p.wait {
		return ""
	}
	for _, n := range p.apps {
		if !h.src.Known(n.sel) {
			return fmt.Sprintf("%s %q is not known here: it has not logged lately; wait=true waits for it", n.what, shorten(n.value))
		}
	}
	if s := p.query.Select[0]; len(p.apps) == 0 && !tail && (s.Space != "" || s.Org != "") && !h.src.Known(p.query.Select) {
		what, value := "space", s.Space
		if value == "" {
			what, value = "org", s.Org
		}
		return fmt.Sprintf("%s %q is not known here: no app of it has logged lately", what, shorten(value))
	}
	return ""
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
  Accept: text/plain               lines to read (the default)
          application/x-ndjson     one JSON object a line
          application/x-protobuf   EnvelopeBatch messages, each behind its length
  /v1/tail is a WebSocket, too: a binary message is one EnvelopeBatch.

Lines that were lost before they could be read are told of in their place:
  -- 123 lines missed --
`

var _ http.Handler = (*Handler)(nil)
