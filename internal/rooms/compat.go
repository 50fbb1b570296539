package rooms

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"strings"

	"github.com/cloudfoundry/loggregator/internal/ops"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/logcache"
	"github.com/cloudfoundry/loggregator/transport/rlpgateway"
)

// Compat is the APIs of Cloud Foundry's components, for the clients that there
// are. They are served on the ports of People and GRPC.
type Compat struct {
	p     *Process
	cache *logcache.Server
	rlp   *rlpgateway.Handler
}

// NewCompat makes the APIs of a process; there is nothing to tell them.
func NewCompat(p *Process) *Compat { return &Compat{p: p} }

// Open serves what the gate lets read. Sources are listed by lister, if there is
// one.
func (c *Compat) Open(gate *access.Gate, lister logcache.Lister, certificates func(*x509.Certificate) (string, bool)) {
	p := c.p
	c.cache = logcache.New(gate, &logcache.Options{Sources: lister, Certificates: certificates, Logger: p.Log})
	c.rlp = rlpgateway.New(gate, &rlpgateway.Options{Logger: p.Log})
	p.onStop(phaseOut, "compatible APIs", func(ctx context.Context) error {
		return errors.Join(c.cache.Shutdown(ctx), c.rlp.Shutdown(ctx))
	}, nil)
	p.figures = append(p.figures, c.figures)
}

// handler is that of a path, or nil if it is none of these APIs'.
func (c *Compat) handler(path string) http.Handler {
	switch {
	case strings.HasPrefix(path, "/api/v1/"):
		return c.cache
	case path == "/v2/read":
		return c.rlp
	}
	return nil
}

func (c *Compat) figures(add func(ops.Metric)) {
	figure := func(name, help string, value float64, labels ...string) {
		add(ops.Metric{Name: name, Help: help, Value: value, Labels: labels})
	}
	s := c.cache.Stats()
	figure("logcache_active", "Requests of Log Cache's API that are being answered.", float64(s.Active))
	figure("logcache_memory_bytes", "Memory that their answers take.", float64(s.Memory))
	figure("logcache_reads_total", "Answers to read.", float64(s.Reads))
	figure("logcache_metas_total", "Answers to meta.", float64(s.Metas))
	figure("logcache_records_total", "Records in answers to read.", float64(s.Records))
	figure("logcache_bytes_total", "Bytes of these records.", float64(s.Bytes))
	figure("logcache_missed_total", "Records that were given up while an answer was put together.", float64(s.Missed))
	for reason, n := range map[string]uint64{"malformed": s.Malformed, "unimplemented": s.Unimplemented, "busy": s.Busy} {
		figure("logcache_refused_total", "Requests refused, by reason.", float64(n), "reason", reason)
	}
	figure("logcache_cut_total", "Records left out because those of one timestamp are more than fits into an answer.", float64(s.Cut))
	figure("logcache_stalled_total", "Clients cut off because they took nothing.", float64(s.Stalled))
	r := c.rlp.Stats()
	figure("rlp_readers", "Streams of the Reverse Log Proxy's API.", float64(r.Readers))
	figure("rlp_resumed_total", "Streams that went on where another had ended.", float64(r.Resumed))
	figure("rlp_stalled_total", "Streams cut off because nobody took anything.", float64(r.Stalled))
	figure("rlp_records_total", "Records read for these streams.", float64(r.Records))
	figure("rlp_filtered_total", "Of those, not sent because no name selects them.", float64(r.Filtered))
	figure("rlp_bytes_total", "Bytes of these records.", float64(r.Bytes))
	figure("rlp_missed_total", "Records that readers missed.", float64(r.Missed))
	figure("rlp_untold_total", "Of those, told by a comment alone.", float64(r.Untold))
}
