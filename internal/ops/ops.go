// Package ops is the operators' port of a daemon. It is apart from package daemon
// because it links Prometheus's client, which the commands that have no such port
// need not carry.
package ops

import (
	"errors"
	"io"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metric is one figure of a daemon at this moment.
type Metric struct {
	Name   string // without the prefix loggregator_; ends in _total if it only grows
	Help   string
	Value  float64
	Labels []string // name, value, name, value …
}

// Handler is the handler of the operators' port: /metrics for Prometheus,
// /healthz (each of alive says nil: restart the process if not), /readyz (ready
// says nil: it can do its work now), /debug/pprof. More can be registered.
func Handler(metrics func(add func(Metric)), ready func() error, alive ...func() error) *http.ServeMux {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(), collector(metrics))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		var errs []error
		for _, f := range alive {
			errs = append(errs, f())
		}
		answer(w, "ok", errors.Join(errs...))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, "ready", ready()) })
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// maxScrapes bounds how many are told the figures at a time.
const maxScrapes = 4

func answer(w http.ResponseWriter, well string, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	io.WriteString(w, well+"\n")
}

// collector asks for the figures when Prometheus does. They are counted where
// they arise, by packages that know nothing of Prometheus.
type collector func(add func(Metric))

func (c collector) Describe(chan<- *prometheus.Desc) {} // unchecked: labels come and go with drains

func (c collector) Collect(out chan<- prometheus.Metric) {
	c(func(m Metric) {
		kind := prometheus.GaugeValue
		if strings.HasSuffix(m.Name, "_total") {
			kind = prometheus.CounterValue
		}
		var names, values []string
		for i := 0; i+1 < len(m.Labels); i += 2 {
			names, values = append(names, m.Labels[i]), append(values, m.Labels[i+1])
		}
		desc := prometheus.NewDesc("loggregator_"+m.Name, m.Help, names, nil)
		out <- prometheus.MustNewConstMetric(desc, kind, m.Value, values...)
	})
}
