package emitter

import (
	"bytes"
	"io"
	"strconv"
	"sync"
	"unicode/utf8"

	"github.com/cloudfoundry/loggregator/envelope"
)

// maxBatch is how many bytes of records of one Write are handed over at once.
// Lines grow by what is said of each: a Write of nothing but line ends would be
// a hundred times its size.
const maxBatch = 256 << 10

// Writer returns an io.WriteCloser that emits each line written to it, for
// log.New, a child process's output, or any other text. LF ends a line, and a CR
// before it goes too; an empty line is an empty record; Close emits what is left
// without an LF. Lines longer than Options.MaxLine are cut, see TagPart. A line
// has the time of the Write that ended it, plus a nanosecond for each line
// before it, so that sorting by time keeps their order.
//
// All lines of one Write go to the Emitter's Writer together (up to 256 KiB of
// records at a time), so large writes are cheap ones. Write always takes
// everything and never fails. After Close, lines are counted as refused. It is
// safe for use by several goroutines at once, and holds at most MaxLine bytes.
func (e *Emitter) Writer(t envelope.LogType) *LineWriter {
	return &LineWriter{lines: lines{e: e, t: t}}
}

// LineWriter makes records of lines, see Emitter.Writer.
type LineWriter struct {
	mu     sync.Mutex
	closed bool
	lines  lines
}

var _ io.WriteCloser = (*LineWriter)(nil)

func (w *LineWriter) Write(p []byte) (int, error) { return w.WriteTime(p, w.lines.e.clock.Now()) }

// WriteTime is Write of text that was taken earlier, at the given nanoseconds
// since 1970 UTC.
func (w *LineWriter) WriteTime(p []byte, at int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := &w.lines
	if w.closed {
		n := bytes.Count(p, []byte{'\n'})
		if len(p) > 0 && p[len(p)-1] != '\n' {
			n++
		}
		l.e.refused.Add(uint64(n))
		return len(p), nil
	}
	l.begin(at)
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			break
		}
		l.line(p[:i])
		p = p[i+1:]
	}
	l.hold(p)
	l.end()
	return n, nil
}

// Close emits what is left without an LF.
func (w *LineWriter) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	l := &w.lines
	if len(l.held) > 0 {
		l.begin(l.e.clock.Now())
		l.finish(false)
		l.end()
	}
	l.held = nil
	return nil
}

// lines makes records of text, line by line.
type lines struct {
	e    *Emitter
	t    envelope.LogType
	held []byte // start of a line whose end has not come: at most maxLine bytes and one
	part int    // parts of that line that are emitted already
	last int64  // time of the last record

	out *buffer // records not handed over yet
	n   int     // how many
}

// begin takes memory for records that are of this time, or a little later.
func (l *lines) begin(at int64) {
	l.out = take()
	l.last = max(l.last, at-1)
}

func (l *lines) end() {
	l.flush()
	l.out.give()
	l.out = nil
}

// line takes the end of a line, without its LF.
func (l *lines) line(text []byte) {
	if len(l.held) == 0 && len(text) <= l.e.maxLine {
		l.emit(trimCR(text), "")
		return
	}
	l.hold(text)
	l.finish(true)
}

// hold takes text of a line whose end has not come, and emits parts of the line
// as soon as at least two more bytes are there: one may be the CR that goes with
// an LF, so a part is never the last one by mistake.
func (l *lines) hold(text []byte) {
	limit := l.e.maxLine
	for len(l.held)+len(text) > limit+1 {
		if len(l.held) == 0 {
			n := cut(text, limit)
			l.emitPart(text[:n], false)
			text = text[n:]
			continue
		}
		n := limit + 1 - len(l.held)
		l.held = append(l.held, text[:n]...)
		text = text[n:]
		n = cut(l.held, limit)
		l.emitPart(l.held[:n], false)
		l.held = l.held[:copy(l.held, l.held[n:])]
	}
	l.held = append(l.held, text...)
}

// finish ends the line that is held.
func (l *lines) finish(crlf bool) {
	text := l.held
	if crlf {
		text = trimCR(text)
	}
	for len(text) > l.e.maxLine {
		n := cut(text, l.e.maxLine)
		l.emitPart(text[:n], false)
		text = text[n:]
	}
	if l.part > 0 {
		l.emitPart(text, true)
	} else {
		l.emit(text, "")
	}
	l.held, l.part = l.held[:0], 0
}

func (l *lines) emitPart(text []byte, last bool) {
	l.part++
	number := strconv.Itoa(l.part)
	if last {
		number += "/" + number
		l.e.cut.Add(1)
	}
	l.emit(text, number)
}

func (l *lines) emit(text []byte, part string) {
	l.last++
	fixed := l.e.fixed
	if part != "" {
		l.out.tags = append(l.out.tags[:0], fixed...).AppendTag(TagPart, part)
		fixed = l.out.tags
	}
	l.out.records = envelope.AppendLog(l.out.records, fixed, l.last, l.t, text)
	l.n++
	if len(l.out.records) >= maxBatch {
		l.flush()
	}
}

func (l *lines) flush() {
	if l.n > 0 {
		l.e.send(l.out.records, l.n, 0)
		l.out.records, l.n = l.out.records[:0], 0
	}
}

func trimCR(line []byte) []byte {
	if n := len(line); n > 0 && line[n-1] == '\r' {
		return line[:n-1]
	}
	return line
}

// cut is where to cut text, which is longer than limit: at limit, or up to three
// bytes before it where a character would be torn.
func cut(text []byte, limit int) int {
	for n := limit; n > limit-utf8.UTFMax; n-- {
		if utf8.RuneStart(text[n]) {
			return n
		}
	}
	return limit
}
