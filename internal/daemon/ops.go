package daemon

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

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

// Operators is the handler of the operators' port: /metrics for Prometheus,
// /healthz (the process answers), /readyz (ready says nil), /debug/pprof. More
// can be registered.
func Operators(metrics func(add func(Metric)), ready func() error) *http.ServeMux {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collector(metrics))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ready\n")
	})
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
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

// Listen listens on addr, or returns nil if addr is empty: that listener is off.
// Beyond loopback it needs insecure, the user's word that whoever can reach the
// port may use it. The flag's name goes into errors.
func Listen(flagName, network, addr string, insecure bool) (net.Listener, error) {
	if addr == "" {
		return nil, nil
	}
	if err := checkAddress(flagName, addr, insecure); err != nil {
		return nil, err
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		return nil, fmt.Errorf("-%s: %w; is another one running? name another address, or none (-%s=) to turn it off", flagName, err, flagName)
	}
	return ln, nil
}

// ListenPacket is Listen for datagrams.
func ListenPacket(flagName, addr string, insecure bool) (net.PacketConn, error) {
	if addr == "" {
		return nil, nil
	}
	if err := checkAddress(flagName, addr, insecure); err != nil {
		return nil, err
	}
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("-%s: %w; is another one running? name another address, or none (-%s=) to turn it off", flagName, err, flagName)
	}
	return pc, nil
}

func checkAddress(flagName, addr string, insecure bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("-%s: %q is not host:port", flagName, addr)
	}
	if insecure || host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("-%s: %s can be reached from other machines, and this port is not protected; listen on 127.0.0.1, or say -insecure if the network keeps strangers out", flagName, addr)
}

// HTTPServer is an http.Server with bounds on what a client may cost: time and
// size of a request's head, and how long an idle connection stays.
func HTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    512 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
