package rooms

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/ops"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/httpapi"
)

// People is where people and clients read.
type People struct {
	p *Process

	http       *door
	maxReaders int
	maxClients int

	gate    *access.Gate
	handler *httpapi.Handler
	conns   *limited
}

// NewPeople adds the flags of the port at which people read.
func NewPeople(p *Process) *People {
	h := &People{p: p}
	h.http = p.door("http", "127.0.0.1:8080", "at which people read")
	h.http.strict, h.http.foreign = true, true
	p.Flags.IntVar(&h.maxReaders, "max-readers", access.DefaultMaxReaders, "how `many` tails and dumps are served at a time")
	p.Flags.IntVar(&h.maxClients, "max-clients", 20_000, "how `many` connections -http takes at a time")
	p.checks = append(p.checks, func() error {
		if h.maxReaders <= 0 || h.maxClients <= 0 {
			return errors.New("-max-readers, -max-clients: must be more than 0")
		}
		return nil
	})
	return h
}

// Open serves what src has.
func (h *People) Open(src access.Source) error {
	p := h.p
	ln, config, err := p.open(h.http)
	if err != nil || ln == nil {
		return err
	}
	h.gate = access.NewGate(src, nil, &access.Options{Logger: p.Log, MaxReaders: h.maxReaders})
	h.handler = httpapi.New(h.gate, &httpapi.Options{Logger: p.Log})
	h.conns = limitConns(ln, h.maxClients, config == nil)
	server := daemon.HTTPServer(h.handler, p.Log)
	server.TLSConfig = config
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
	figure("http_refused_total", "Tails and dumps refused because there were too many.", float64(h.gate.Stats().Busy))
	figure("http_stalled_total", "Readers cut off because they took nothing.", float64(s.Stalled))
	figure("http_records_total", "Records sent to tails and dumps.", float64(s.Records))
	figure("http_bytes_total", "Bytes of these records.", float64(s.Bytes))
	figure("http_missed_total", "Records that tails and dumps were told they missed.", float64(s.Missed))
}
