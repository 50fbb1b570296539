package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/follow"
	"github.com/cloudfoundry/loggregator/internal/ops"
	"github.com/cloudfoundry/loggregator/internal/ratelimit"
	"github.com/cloudfoundry/loggregator/internal/sockets"
)

// positionsName is the file in the state directory in which positions are kept.
const positionsName = "positions.json"

// group is the files of an entry as package follow has them.
func (c *config) group(f *filesConfig, w envelope.Writer) (*follow.Group, *ratelimit.Writer) {
	r := &rule{f.ruleConfig, c.Tags}
	w, limit := limited(w, f.Limit)
	return &follow.Group{
		Paths:   f.Paths,
		Exclude: f.Exclude,
		Join:    f.join(),
		FromEnd: f.Start == "end",
		MaxLine: int(f.MaxLine),
		Writer:  w,
		Repeats: limit != nil,
		Identify: func(path string, vars map[string]string) (envelope.Identity, envelope.LogType, error) {
			vars, err := withMatch(f.Match, path, vars)
			if err != nil {
				return envelope.Identity{}, 0, err
			}
			id, err := r.identity(vars)
			return id, f.stream(), err
		},
	}, limit
}

func (f *filesConfig) stream() envelope.LogType {
	if f.Stream == "err" {
		return envelope.Err
	}
	return envelope.Out
}

// files follows the files of all entries. from, if not nil, did so before.
func (c *config) files(w envelope.Writer, o follow.Options, log *slog.Logger) (*part, *follow.Follower, error) {
	var groups []*follow.Group
	limits := make(map[string]*ratelimit.Writer)
	for i := range c.Files {
		g, limit := c.group(&c.Files[i], w)
		if groups = append(groups, g); limit != nil {
			limits[c.Files[i].Name] = limit
		}
	}
	o.Positions, o.Logger = filepath.Join(c.State, positionsName), log
	o.Poll, o.NoNotify, o.MaxOpen = c.Poll.std(), c.PollAll, c.MaxOpen
	f, err := follow.New(groups, &o)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan struct{})
	p := &part{section: "files", name: "all"}
	p.run = func() error {
		defer close(gone)
		f.Run(ctx)
		return nil
	}
	p.stop = func(context.Context) error {
		cancel()
		<-gone
		for _, l := range limits {
			l.Close()
		}
		return nil
	}
	p.figures = func(add func(ops.Metric)) {
		s := f.Stats()
		p.figure(add, "records_total", helpRecords, s.Records)
		p.figure(add, "bytes_total", helpBytes, s.Bytes)
		p.figure(add, "files", "Files followed.", uint64(s.Files))
		p.figure(add, "files_open", "Files open.", uint64(s.Open))
		p.figure(add, "files_unreadable", "Files that cannot be read.", uint64(s.Unreadable))
		p.figure(add, "files_rotated_total", "Files that got another name.", s.Rotations)
		p.figure(add, "files_truncated_total", "Files that were cut, and read from their beginning.", s.Truncated)
		p.figure(add, "files_unknown_total", "Truncated or vanished files of which nobody knows whether they had more.", s.Unknown)
		for name, l := range limits {
			add(ops.Metric{Name: "agent_refused_total", Help: "Records refused, by reason.", Value: float64(l.Refused()),
				Labels: []string{"section", p.section, "name", name, "reason", ratelimit.Reason.String()}})
		}
	}
	return p, f, nil
}

// targets finds the sockets of an entry.
func (c *config) targets(s *socketsConfig) ([]sockets.Target, error) {
	r := &rule{s.ruleConfig, c.Tags}
	if s.Instances != "" {
		return sockets.Instances(s.Instances, func(app, instance, sourceType string) (envelope.Identity, error) {
			return r.identity(map[string]string{"app": app, "instance": instance, "source_type": sourceType})
		})
	}
	var targets []sockets.Target
	for _, p := range s.Dirs {
		for _, m := range p.FindDirs() {
			vars, err := withMatch(s.Match, m.Path, m.Vars)
			if err != nil {
				continue
			}
			id, err := r.identity(vars)
			if err != nil {
				continue
			}
			targets = append(targets, sockets.Find(m.Path, id)...)
		}
	}
	return targets, nil
}

func (c *config) sockets(s *socketsConfig, w envelope.Writer, log *slog.Logger) *part {
	w, limit := limited(w, s.Limit)
	r := sockets.New(func() ([]sockets.Target, error) { return c.targets(s) }, w, &sockets.Options{MaxLine: int(s.MaxLine), Logger: log})
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan struct{})
	p := &part{section: "sockets", name: s.Name}
	p.run = func() error {
		defer close(gone)
		r.Run(ctx)
		return nil
	}
	p.stop = func(ctx context.Context) error {
		cancel()
		select {
		case <-gone:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", s.Name, ctx.Err())
		}
	}
	p.figures = func(add func(ops.Metric)) {
		s := r.Stats()
		p.figure(add, "bytes_total", helpBytes, s.Bytes)
		p.figure(add, "sockets", "Sockets that there are.", uint64(s.Sockets))
		p.figure(add, "sockets_open", "Sockets being read.", uint64(s.Open))
		p.figure(add, "sockets_skipped", "Sockets not read because there are too many.", uint64(s.Skipped))
		p.figure(add, "sockets_failures_total", "Connections to sockets that could not be made, or broke.", s.Failures)
	}
	return p.withLimit(limit)
}
