package emitter

import "github.com/cloudfoundry/loggregator/envelope"

// Records makes records of texts that somebody else has split. It holds them
// until Flush, or until there are 256 KiB of them, so that many go to the
// Emitter's Writer together. It is for one goroutine.
type Records struct{ l lines }

// Records returns an empty one, for logs of type t.
func (e *Emitter) Records(t envelope.LogType) *Records {
	return &Records{l: lines{e: e, t: t}}
}

// Append adds one record with this text as it is, line ends included; a text
// longer than Options.MaxLine is cut, see TagPart. Records have the time of the
// first Append after a Flush, plus a nanosecond for each before it.
func (r *Records) Append(text []byte) {
	if r.l.out == nil {
		r.l.begin(r.l.e.clock.Now())
	}
	if len(text) <= r.l.e.maxLine {
		r.l.emit(text, "")
		return
	}
	r.l.hold(text)
	r.l.finish(false)
	r.l.held = nil // rare, and may be large
}

// Flush hands over what was appended.
func (r *Records) Flush() {
	if r.l.out != nil {
		r.l.end()
	}
}
