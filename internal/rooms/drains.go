package rooms

import (
	"fmt"

	"github.com/cloudfoundry/loggregator/drain"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/drains"
	"github.com/cloudfoundry/loggregator/internal/ops"
)

// Drains are the receivers to which logs are sent.
type Drains struct {
	p     *Process
	Flags drains.Flags
	set   *drain.Set
}

// NewDrains adds the flags of the drains. positions is the default of -positions.
func NewDrains(p *Process, positions string) *Drains {
	d := &Drains{p: p}
	d.Flags.Register(p.Flags, positions)
	return d
}

// Open drains src. What applications are told of their drains goes to tell.
func (d *Drains) Open(src envelope.Source, tell envelope.Writer) (err error) {
	p := d.p
	if d.Flags.Named() {
		if d.set, err = d.Flags.Open(src, tell, p.Log); err != nil {
			return err
		}
		set := d.set
		p.onStop(phaseDrains, "drains", set.Shutdown, d.left)
		p.onPulse("drains", func() { set.Err() })
		p.figures = append(p.figures, func(add func(ops.Metric)) { drains.Metrics(set, add) })
		for _, provider := range set.Providers() {
			p.say("drains", "%d, as %s says; it is followed", provider.Bindings, provider.Name)
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

// left is what drains have not delivered.
func (d *Drains) left() string {
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
