package main

import (
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/outbuf"
)

// printer renders batches.
type printer struct {
	out     *outbuf.Writer
	loc     *time.Location
	json    bool
	withApp bool // the application's name stands in front of lines
	color   bool
	buf     []byte
}

const (
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	plain  = "\x1b[0m"
)

// print renders the batch and the gap before it. It blocks while standard output
// takes nothing.
func (p *printer) print(b envelope.Batch) error {
	p.buf = p.gap(p.buf[:0], b)
	for e, err := range b.All() {
		if err != nil {
			return err
		}
		if p.buf = p.line(p.buf, e); len(p.buf) >= 32<<10 {
			if err := p.out.Append(p.buf); err != nil {
				return err
			}
			p.buf = p.buf[:0]
		}
	}
	return p.out.Append(p.buf)
}

func (p *printer) gap(dst []byte, b envelope.Batch) []byte {
	if p.json {
		return b.AppendGapJSON(dst)
	}
	start := len(dst)
	dst = p.paint(dst, yellow)
	head := len(dst)
	if dst = b.AppendGapText(dst, p.withApp); len(dst) == head {
		return dst[:start]
	}
	return p.unpaint(dst)
}

func (p *printer) line(dst []byte, e envelope.Envelope) []byte {
	if p.json {
		return e.AppendJSON(dst)
	}
	if !p.color {
		dst, ok := e.AppendMissedText(dst, p.withApp)
		if !ok {
			dst = e.AppendText(dst, p.loc, p.withApp)
		}
		return dst
	}
	start := len(dst)
	if dst, ok := e.AppendMissedText(p.paint(dst, yellow), p.withApp); ok {
		return p.unpaint(dst)
	}
	dst = dst[:start]
	if r, err := e.Route(); err != nil || r.Kind != envelope.KindLog || r.LogType != envelope.Err {
		return e.AppendText(dst, p.loc, p.withApp)
	}
	return p.unpaint(e.AppendText(p.paint(dst, red), p.loc, p.withApp))
}

func (p *printer) paint(dst []byte, color string) []byte {
	if !p.color {
		return dst
	}
	return append(dst, color...)
}

// unpaint ends the colour before the last line does, so that a line cut off
// there leaves a clean terminal.
func (p *printer) unpaint(dst []byte) []byte {
	if !p.color {
		return dst
	}
	return append(append(dst[:len(dst)-1], plain...), '\n')
}
