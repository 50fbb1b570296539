package logplexin

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/gather"
	"github.com/cloudfoundry/loggregator/internal/syslogmsg"
)

const (
	startBody = 16 << 10 // what a body's buffer starts with
	keepBody  = 1 << 20  // the largest buffer that is kept for the next request
)

// tagPart is on the parts of a text that was split, as on those of a long line
// from package emitter.
const tagPart = "part"

// intake takes one request at a time. Its memory serves one after the other.
type intake struct {
	h       *Handler
	body    []byte
	held    int64 // of MaxBuffered
	unzip   *gzip.Reader
	logplex bool   // Logplex itself sends: there is no structured data, whatever the text begins with
	noticed bool   // the request says in its head what was lost; notices say the same
	missed  uint64 // what was lost, to be told with the next record

	msg     syslogmsg.Message
	compose syslogmsg.Composer
	last    *origin
	out     *gather.Batches
	tagged  envelope.Fixed
	tally   struct{ rfc5424, unparsed, split, parts, filtered, missed uint64 }
	err     error
}

func newIntake(h *Handler) *intake {
	return &intake{h: h, out: gather.New(h.w)}
}

// give ends a request.
func (in *intake) give() {
	in.h.buffered.Add(-in.held)
	in.held = 0
	if cap(in.body) > keepBody {
		in.body = nil
	}
	in.body = in.body[:0]
	in.missed, in.err = 0, nil
	in.h.intakes.Put(in)
}

// read reads the body of a request.
func (in *intake) read(w http.ResponseWriter, r *http.Request) *refusal {
	h := in.h
	limit := h.opts.MaxBody
	// What cannot set a deadline, as a test's recorder, has none.
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(h.opts.BodyTimeout))
	wire := &counted{r: http.MaxBytesReader(w, r.Body, int64(limit))}
	defer func() { h.counts.bytes.Add(wire.n) }()

	var src io.Reader = wire
	switch encoding := strings.ToLower(r.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		if in.unzip == nil {
			in.unzip = new(gzip.Reader)
		}
		if err := in.unzip.Reset(wire); err != nil {
			return in.broken(err)
		}
		src = in.unzip
	default:
		return &refusal{http.StatusUnsupportedMediaType, "encoding", "Content-Encoding must be gzip, or none"}
	}
	if !in.hold(int64(cap(in.body))) {
		return tooMany
	}
	for {
		if len(in.body) == cap(in.body) {
			size := max(2*cap(in.body), startBody)
			if !in.hold(int64(size - cap(in.body))) {
				return tooMany
			}
			in.body = append(make([]byte, 0, size), in.body...)
		}
		n, err := src.Read(in.body[len(in.body):cap(in.body)])
		in.body = in.body[:len(in.body)+n]
		switch {
		case len(in.body) > limit:
			return &refusal{http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("the body is larger than %d bytes after decompression; send less at a time", limit)}
		case err == io.EOF:
			return nil
		case err != nil:
			return in.broken(err)
		}
	}
}

var tooMany = &refusal{http.StatusServiceUnavailable, "memory", "too much is being sent at once; send this again later"}

func (in *intake) hold(n int64) bool {
	in.held += n
	return in.h.buffered.Add(n) <= in.h.opts.MaxBuffered
}

// broken says why a body did not come.
func (in *intake) broken(err error) *refusal {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &refusal{http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("the body is larger than %d bytes; send less at a time", in.h.opts.MaxBody)}
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &refusal{http.StatusRequestTimeout, "timeout", "the body did not come within " + in.h.opts.BodyTimeout.String()}
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), isFlate(err):
		return &refusal{http.StatusBadRequest, "malformed", "the body is not gzip, as Content-Encoding says"}
	}
	return &refusal{http.StatusBadRequest, "aborted", "the body ends too early"}
}

func isFlate(err error) bool { return strings.HasPrefix(err.Error(), "flate:") }

// counted counts the bytes that are read.
type counted struct {
	r io.Reader
	n uint64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += uint64(n)
	return n, err
}

// next takes the first frame, "LEN MESSAGE", off a body.
func next(body []byte) (message, rest []byte, ok bool) {
	size, i := 0, 0
	for i < len(body) && i < 9 && body[i]-'0' <= 9 {
		size = 10*size + int(body[i]-'0')
		i++
	}
	if i == 0 || i == len(body) || body[i] != ' ' || size > len(body)-i-1 {
		return nil, nil, false
	}
	i++
	return body[i : i+size], body[i+size:], true
}

// count says how many frames a body holds, or what is wrong with it. A line end
// after the last frame is none.
func count(body []byte) (int, *refusal) {
	n := 0
	for rest := body; len(rest) > 0; n++ {
		_, tail, ok := next(rest)
		if !ok {
			if len(bytes.TrimSpace(rest)) == 0 {
				break
			}
			return 0, &refusal{http.StatusBadRequest, "malformed",
				fmt.Sprintf("no frame at byte %d, after %d messages: a message stands after its length in bytes and a space, \"66 <40>1 …\"; nothing was taken", len(body)-len(rest), n)}
		}
		rest = tail
	}
	return n, nil
}

// take hands over the first n messages of the body.
func (in *intake) take(o Origin, n int) error {
	now := time.Now().UnixNano()
	rest := in.body
	for range n {
		message, tail, _ := next(rest)
		in.message(o, now, message)
		rest = tail
		if in.err != nil {
			break // the rest is as good as not sent: all of it will be sent again
		}
	}
	in.flush()
	if in.missed > 0 && in.err == nil { // and no record that would say whose they were
		in.err = in.h.w.WriteBatch(in.h.ctx, envelope.Batch{Missed: in.missed, Reason: envelope.ReasonAgent})
		in.h.counts.missed.Add(in.missed)
		in.missed = 0
	}
	return in.err
}

func (in *intake) message(o Origin, now int64, line []byte) {
	m := &in.msg
	dialect := syslogmsg.Either
	if in.logplex {
		dialect = syslogmsg.None
	}
	if m.Parse5424(line, dialect) {
		in.tally.rfc5424++
	} else {
		in.tally.unparsed++
		*m = syslogmsg.Message{Text: line}
	}
	if !m.HasTime {
		m.Timestamp = now
	}
	text := bytes.TrimRight(m.Text, "\r\n\x00")
	o.Hostname = syslogmsg.View(syslogmsg.Cut(m.Hostname, syslogmsg.MaxField))
	o.AppName = syslogmsg.View(syslogmsg.Cut(m.AppName, syslogmsg.MaxField))
	o.ProcID = syslogmsg.View(syslogmsg.Cut(m.ProcID, syslogmsg.MaxField))
	if in.last == nil || in.last.Origin != o {
		in.last = in.h.find(o)
	}
	id := in.last.id
	if id == nil {
		in.tally.filtered++
		return
	}
	if n, ok := lossNotice(o, text); ok && !in.noticed {
		in.missed += n
	}
	fixed := in.compose.Compose(id, m)
	t := envelope.Out
	if m.HasPriority && m.Severity <= syslogmsg.Error {
		t = envelope.Err
	}
	if len(text) <= in.h.opts.MaxLine {
		in.add(id.Source, fixed, m.Timestamp, t, text)
		return
	}
	in.tally.split++
	for part := 1; len(text) > 0; part++ {
		piece, number := text, strconv.Itoa(part)
		if len(text) > in.h.opts.MaxLine {
			piece = syslogmsg.Cut(text, in.h.opts.MaxLine)
		} else {
			number += "/" + number
		}
		if part > 1 {
			in.tally.parts++
		}
		text = text[len(piece):]
		in.tagged = append(in.tagged[:0], fixed...).AppendTag(tagPart, number)
		in.add(id.Source, in.tagged, m.Timestamp+int64(part-1), t, piece)
	}
}

func (in *intake) add(source string, fixed envelope.Fixed, stamp int64, t envelope.LogType, text []byte) {
	g := in.out.Group(source)
	if in.missed > 0 {
		if !g.Empty() { // they were lost before this record, not before those
			in.flush()
			g = in.out.Group(source)
		}
		g.Missed, g.Reason = g.Missed+in.missed, envelope.ReasonAgent
		in.tally.missed += in.missed
		in.missed = 0
	}
	g.Records = envelope.AppendLog(g.Records, fixed, stamp, t, text)
	if in.out.Added(g) {
		in.flush()
	}
}

// flush hands over what was gathered and counts it.
func (in *intake) flush() {
	records, lost, err := in.out.Flush(in.h.ctx)
	if err != nil {
		in.err = err
	}
	c, t := &in.h.counts, &in.tally
	c.rfc5424.Add(t.rfc5424)
	c.unparsed.Add(t.unparsed)
	c.split.Add(t.split)
	c.parts.Add(t.parts)
	c.filtered.Add(t.filtered)
	c.missed.Add(t.missed)
	c.bounded.Add(in.compose.Bounded)
	c.records.Add(records)
	c.lost.Add(lost)
	in.compose.Bounded = 0
	*t = struct{ rfc5424, unparsed, split, parts, filtered, missed uint64 }{}
}

// lossNotice reads the line by which Logplex says, in the stream itself, how many
// messages it has lost before: Error L10 in two wordings, each with the number
// before " messages"; and log-shuttle's L12 and L13.
func lossNotice(o Origin, text []byte) (n uint64, ok bool) {
	if o.ProcID != "logplex" && o.ProcID != "log-shuttle" || o.AppName != "heroku" && o.Hostname != "heroku" {
		return 0, false
	}
	text, ok = bytes.CutPrefix(text, []byte("Error L1"))
	if !ok || len(text) == 0 || text[0] != '0' && text[0] != '2' && text[0] != '3' {
		return 0, false
	}
	i := bytes.Index(text, []byte(" messages "))
	if i < 0 {
		return 0, false
	}
	from := i
	for from > 0 && text[from-1]-'0' <= 9 {
		from--
	}
	n, err := strconv.ParseUint(string(text[from:i]), 10, 32)
	return n, err == nil
}
