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
	"github.com/cloudfoundry/loggregator/transport/v1api"
)

// Compat is the APIs of Cloud Foundry's components, for the clients that there
// are. They are served on the ports of People and GRPC.
type Compat struct {
	p     *Process
	cache *logcache.Server
	rlp   *rlpgateway.Handler
	v1    *v1api.Handler

	cookieDomain string
}

// NewCompat adds the flags of these APIs.
func NewCompat(p *Process) *Compat {
	c := &Compat{p: p}
	p.Flags.StringVar(&c.cookieDomain, "v1-cookie-domain", "", "`domain` of the cookies that /set-cookie of the v1 API sets; empty: there is no such page")
	return c
}

// Open serves what the gate lets read. Sources are listed by lister, if there is
// one.
func (c *Compat) Open(gate *access.Gate, lister logcache.Lister, certificates func(*x509.Certificate) (string, bool)) {
	p := c.p
	c.cache = logcache.New(gate, &logcache.Options{Sources: lister, Certificates: certificates, Logger: p.Log})
	c.rlp = rlpgateway.New(gate, &rlpgateway.Options{Logger: p.Log})
	// Where nobody says who may read, there is no Cloud Foundry, and applications
	// have other ids than its.
	c.v1 = v1api.New(gate, &v1api.Options{AnyID: !gate.Restricted(), CookieDomain: c.cookieDomain, Logger: p.Log})
	p.onStop(phaseOut, "compatible APIs", func(ctx context.Context) error {
		return errors.Join(c.cache.Shutdown(ctx), c.rlp.Shutdown(ctx), c.v1.Shutdown(ctx))
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
	case strings.HasPrefix(path, "/apps/"), strings.HasPrefix(path, "/firehose/"), path == "/set-cookie":
		return c.v1
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
	v := c.v1.Stats()
	figure("v1_readers", "Streams and dumps of the v1 API.", float64(v.Readers))
	figure("v1_stalled_total", "Readers cut off because they took nothing.", float64(v.Stalled))
	figure("v1_silent_total", "Readers cut off because they did not answer a ping.", float64(v.Silent))
	figure("v1_flooded_total", "Readers cut off because they sent too much.", float64(v.Flooded))
	figure("v1_records_total", "Records read for these readers.", float64(v.Records))
	figure("v1_skipped_total", "Of those, not sent, because v1 has no form for them.", float64(v.Skipped))
	figure("v1_bytes_total", "Bytes of these records.", float64(v.Bytes))
	figure("v1_envelopes_total", "v1 envelopes made of them.", float64(v.Envelopes))
	figure("v1_missed_total", "Records that readers missed.", float64(v.Missed))
	figure("v1_untold_total", "Of those, not told to the reader.", float64(v.Untold))
}
