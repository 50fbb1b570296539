package rooms

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cloudfoundry/loggregator/drain"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/drains"
	"github.com/cloudfoundry/loggregator/internal/ops"
)

// Drains are the receivers to which logs are sent.
type Drains struct {
	p       *Process
	Flags   drains.Flags
	lasting bool
	set     *drain.Set
}

// NewDrains adds the flags of the drains. positions is the default of -positions.
func NewDrains(p *Process, positions string) *Drains {
	d := &Drains{p: p}
	d.Flags.Register(p.Flags, positions)
	p.followed("drains", "drains-cert", "drains-key", "drains-ca", "drain-ca", "drain-cert", "drain-key")
	p.checks = append(p.checks, d.Flags.Check)
	return d
}

// Required has the process do nothing else: it needs drains, and is not ready
// while they cannot be known.
func (d *Drains) Required() {
	d.p.checks = append(d.p.checks, func() error {
		if !d.Flags.Named() {
			return errors.New("there is nothing to do without -drains FILE, -drains-capi URL or -drains-cache URL; see -help")
		}
		return nil
	})
	d.p.ready = append(d.p.ready, func() error { return d.set.Err() })
}

// Open drains src. What applications are told of their drains goes to tell.
// lasting means that src outlives the process: with the drains' positions kept,
// what is not delivered at the end is when it is started again.
func (d *Drains) Open(src envelope.Source, tell envelope.Writer, lasting bool) (err error) {
	p := d.p
	if d.Flags.Named() {
		if d.set, err = d.Flags.Open(src, tell, p.Log); err != nil {
			return err
		}
		set := d.set
		d.lasting = lasting && (d.Flags.PositionsFile() != "" || d.Flags.Shared != nil)
		p.onStop(phaseDrains, "drains", d.stop, d.left)
		p.onPulse("drains", func() { set.Err() })
		p.figures = append(p.figures, func(add func(ops.Metric)) { drains.Metrics(set, add) })
		p.reports = append(p.reports, d.report)
		for _, provider := range set.Providers() {
			p.say("drains", "what %s names, %d now; it is followed", provider.Name, provider.Bindings)
		}
		if file := d.Flags.PositionsFile(); file != "" {
			p.say("places", "kept in %s", file)
		} else if d.Flags.Shared != nil {
			p.say("places", "kept at the servers")
		}
		bindings := d.bindings()
		p.reloads = append(p.reloads, func() string {
			was := bindings
			if bindings = d.bindings(); bindings == was {
				return ""
			}
			return fmt.Sprintf("drains: %d are named in place of %d", bindings, was)
		})
	}
	p.pages["GET /v1/drains"] = drains.Handler(d.set)
	return nil
}

// bindings is how many drains are named.
func (d *Drains) bindings() (n int) {
	for _, p := range d.set.Providers() {
		n += p.Bindings
	}
	return n
}

// stop ends the drains. What they have not delivered is no failure if it will be.
func (d *Drains) stop(ctx context.Context) error {
	err := d.set.Shutdown(ctx)
	if err != nil && d.lasting && d.set.Err() == nil {
		d.p.reports = append(d.p.reports, func(out io.Writer) {
			fmt.Fprintf(out, "What was not delivered is when this is started again, as far as it is held: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		})
		return nil
	}
	return err
}

// left is what drains have not delivered.
func (d *Drains) left() string {
	if d.lasting {
		return ""
	}
	records, behind := uint64(0), 0
	for _, s := range d.set.Status() {
		n := s.Pending
		if s.Behind != nil {
			n = max(n, *s.Behind)
		}
		if n > 0 {
			behind++
		}
		records += n
	}
	if behind == 0 {
		return ""
	}
	return fmt.Sprintf("%d records that %d drains had not delivered", records, behind)
}

// report says at the end what became of all records.
func (d *Drains) report(out io.Writer) {
	var sum drain.Stats
	list := d.set.Status()
	for _, s := range list {
		sum.Delivered += s.Delivered
		sum.Missed += s.Missed
		sum.Filtered += s.Filtered
		sum.Refused += s.Refused
		sum.Pending += s.Pending
	}
	fmt.Fprintf(out, "Stopped. %d drains delivered %d records, missed %d, filtered %d, had %d refused, and left %d.\n",
		len(list), sum.Delivered, sum.Missed, sum.Filtered, sum.Refused, sum.Pending)
}
