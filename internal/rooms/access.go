package rooms

import (
	"errors"

	"github.com/cloudfoundry/loggregator/internal/authorizers"
	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/ops"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// Access is who may read what, by every API.
type Access struct {
	p *Process

	who                 authorizers.Flags
	maxReaders, perUser int
	rate                int64

	gate *access.Gate
}

// NewAccess adds the flags of who may read, and how much.
func NewAccess(p *Process) *Access {
	a := &Access{p: p}
	fs := p.Flags
	a.who.Register(fs)
	p.followed("auth-tokens")
	fs.IntVar(&a.maxReaders, "max-readers", access.DefaultMaxReaders, "how `many` tails, dumps and streams are served at a time, over all APIs")
	fs.IntVar(&a.perUser, "max-readers-per-user", access.DefaultMaxPerUser, "how `many` of them one user may have, where users are told apart; negative: any number")
	daemon.SizeVar(fs, &a.rate, "reader-rate", access.DefaultBytesPerSecond, "`bytes` in a second that one reader gets at most; who falls behind is told what it missed")
	p.checks = append(p.checks, func() error {
		errs := []error{a.who.Check()}
		if a.maxReaders <= 0 {
			errs = append(errs, errors.New("-max-readers: must be more than 0"))
		}
		if a.rate <= 0 {
			errs = append(errs, errors.New("-reader-rate: must be more than 0"))
		}
		return errors.Join(errs...)
	})
	return a
}

// restricted reports whether the flags say who may read.
func (a *Access) restricted() bool { return a.who.Named() }

// Open makes the gate before src.
func (a *Access) Open(src access.Source) (*access.Gate, error) {
	p := a.p
	who, err := a.who.Open(p.Log)
	if err != nil {
		return nil, err
	}
	a.gate = access.NewGate(src, who, &access.Options{
		Audit:      a.who.Audit(p.Log),
		MaxReaders: a.maxReaders, MaxPerUser: a.perUser, BytesPerSecond: a.rate, Logger: p.Log,
	})
	p.onPulse("access", func() { a.gate.Stats() })
	p.figures = append(p.figures, a.figures)
	return a.gate, nil
}

func (a *Access) figures(add func(ops.Metric)) {
	figure := func(name, help string, value float64, labels ...string) {
		add(ops.Metric{Name: name, Help: help, Value: value, Labels: labels})
	}
	s := a.gate.Stats()
	figure("access_readers", "Tails, dumps and streams that are being served, over all APIs.", float64(s.Readers))
	figure("access_users", "Users who have some.", float64(s.Users))
	figure("access_admitted_total", "Readers let in.", float64(s.Admitted))
	for reason, n := range map[string]uint64{
		"token": s.BadToken, "denied": s.Denied, "max_readers": s.Busy, "max_readers_per_user": s.UserBusy, "unavailable": s.Unavailable,
	} {
		figure("access_refused_total", "Readers turned away, by reason.", float64(n), "reason", reason)
	}
	figure("access_foreign_total", "Requests refused because a web page from elsewhere made them.", float64(s.Foreign))
	figure("access_expired_total", "Readers ended because their tokens did.", float64(s.Expired))
	figure("access_held_back_total", "Pauses that -reader-rate made.", float64(s.HeldBack))
}
