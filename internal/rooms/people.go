package rooms

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/ops"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/httpapi"
)

// People is where people and clients read over HTTP.
type People struct {
	p *Process

	http       *door
	maxClients int
	maxRequest int64
	patience   time.Duration // for a request

	handler *httpapi.Handler
	conns   *limited
}

// NewPeople adds the flags of the port at which people read; a says who may.
func NewPeople(p *Process, a *Access) *People {
	h := &People{p: p}
	h.http = p.door("http", "127.0.0.1:8080", "at which people read")
	h.http.strict, h.http.foreign, h.http.guarded = true, true, a.restricted
	p.Flags.IntVar(&h.maxClients, "max-clients", 20_000, "how `many` connections -http takes at a time")
	daemon.SizeVar(p.Flags, &h.maxRequest, "max-request", 512<<10, "`bytes` of the head of a request to -http: its address, with parameters, and its headers")
	p.Flags.DurationVar(&h.patience, "request-timeout", 10*time.Second, "how long a client may take for the head of a request")
	p.checks = append(p.checks, func() error {
		if h.maxClients <= 0 || h.maxRequest <= 0 || h.patience <= 0 {
			return errors.New("-max-clients, -max-request, -request-timeout: must be more than 0")
		}
		return nil
	})
	return h
}

// Open serves what the gate lets read, by our own API and by compatible ones.
func (h *People) Open(gate *access.Gate, compat *Compat) error {
	p := h.p
	ln, config, err := p.open(h.http)
	if err != nil || ln == nil {
		return err
	}
	h.handler = httpapi.New(gate, &httpapi.Options{Logger: p.Log})
	h.conns = limitConns(ln, h.maxClients, config == nil)
	server := daemon.HTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if other := compat.handler(r.URL.Path); other != nil {
			if sentence := gate.Elsewhere(r); sentence != "" {
				http.Error(w, sentence, http.StatusForbidden)
				return
			}
			other.ServeHTTP(w, r)
			return
		}
		h.handler.ServeHTTP(w, r)
	}), p.Log)
	server.TLSConfig, server.MaxHeaderBytes, server.ReadHeaderTimeout = config, int(h.maxRequest), h.patience
	p.onStop(phaseOut, "readers", h.handler.Shutdown, func() string {
		if n := h.handler.Stats().Readers; n > 0 {
			return fmt.Sprintf("%d readers in the middle", n)
		}
		return ""
	})
	p.onStop(phaseOut, "http", server.Shutdown, nil)
	p.onPulse("readers", func() { h.handler.Stats() })
	p.figures = append(p.figures, h.figures)
	p.serve(func() error { return serveHTTP(server, h.conns) }, http.ErrServerClosed)
	address := h.http.scheme("http") + "://" + ln.Addr().String()
	p.say("read", "%s   cf-logs --target %[1]s --app NAME", address)
	p.say("", "                         curl '%s/v1/tail?app=NAME&wait=true'", address)
	return nil
}

func (h *People) figures(add func(ops.Metric)) {
	figure := func(name, help string, value float64, labels ...string) {
		add(ops.Metric{Name: name, Help: help, Value: value, Labels: labels})
	}
	s := h.handler.Stats()
	figure("http_connections", "Connections of people and clients.", float64(h.conns.open.Load()))
	figure("http_connections_refused_total", "Connections turned away because of -max-clients.", float64(h.conns.refused.Load()))
	figure("http_readers", "Tails and dumps being served.", float64(s.Readers))
	figure("http_stalled_total", "Readers cut off because they took nothing.", float64(s.Stalled))
	figure("http_records_total", "Records sent to tails and dumps.", float64(s.Records))
	figure("http_bytes_total", "Bytes of these records.", float64(s.Bytes))
	figure("http_missed_total", "Records that tails and dumps were told they missed.", float64(s.Missed))
}
