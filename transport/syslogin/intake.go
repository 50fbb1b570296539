package syslogin

import (
	"strconv"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/gather"
	"github.com/cloudfoundry/loggregator/internal/syslogmsg"
)

// tagPart is on the parts of a message that was split, as on those of a long
// line from package emitter.
const tagPart = "part"

// intake makes records of messages. It is for one goroutine.
type intake struct {
	s      *Server
	local  bool   // messages come from this machine, and name no host
	remote string // address of the sender

	*desk           // between begin and end
	now   time.Time // of what was read last
	last  *origin
	err   error // of the Writer

	// The message under way that is split; part is 0 if there is none.
	part   int
	group  string // its source; empty if its records are left out
	fixed  envelope.Fixed
	typ    envelope.LogType
	stamp  int64
	tagged envelope.Fixed // fixed and the part's tag
}

// desk is what it takes to work on messages. A connection has it only while it
// does: most are idle, and records take much more memory than lines.
type desk struct {
	msg     syslogmsg.Message
	compose syslogmsg.Composer
	out     *gather.Batches
	tally   tally
}

// tally is what one read brought; the server's counters are touched once for it.
type tally struct{ rfc5424, rfc3164, unparsed, split, parts, filtered uint64 }

func newIntake(s *Server, local bool, remote string) intake {
	return intake{s: s, local: local, remote: remote}
}

// begin comes before the messages of one read, end after them.
func (in *intake) begin() {
	in.desk = in.s.desks.Get().(*desk)
	in.now = time.Now()
}

// end hands over what was made of them.
func (in *intake) end() {
	in.flush()
	in.s.desks.Put(in.desk)
	in.desk = nil
	if in.part == 0 && cap(in.fixed)+cap(in.tagged) > 0 {
		in.fixed, in.tagged = nil, nil // after a long message
	}
}

// message takes a whole message, without a line end.
func (in *intake) message(line []byte) {
	limit := in.s.opts.MaxMessage
	if len(line) > limit {
		for len(line) > limit {
			n := syslogmsg.CutAt(line, limit)
			in.long(line[:n])
			line = line[n:]
		}
		in.longEnd(line)
		return
	}
	id := in.parse(line)
	if id == nil {
		in.tally.filtered++
		return
	}
	in.add(id.Source, in.compose.Compose(id, &in.msg), in.msg.Timestamp, in.streamOf(), in.msg.Text)
}

// long takes the next part of a message that is split.
func (in *intake) long(text []byte) {
	if in.part == 0 {
		in.tally.split++
		in.open(text)
		text = in.msg.Text
	} else {
		in.tally.parts++
	}
	in.part++
	in.emit(text, strconv.Itoa(in.part))
}

// longEnd takes the last part of a message that is split, which may be empty.
func (in *intake) longEnd(text []byte) {
	in.tally.parts++
	in.part++
	number := strconv.Itoa(in.part)
	in.emit(trimEnd(text), number+"/"+number)
	in.part = 0
}

// open reads the head of a message that is split.
func (in *intake) open(head []byte) {
	id := in.parse(head)
	if id == nil {
		in.group = ""
		return
	}
	in.group = id.Source
	in.fixed = append(in.fixed[:0], in.compose.Compose(id, &in.msg)...)
	in.typ, in.stamp = in.streamOf(), in.msg.Timestamp
}

func (in *intake) emit(text []byte, part string) {
	if in.group == "" {
		in.tally.filtered++
		return
	}
	in.tagged = append(in.tagged[:0], in.fixed...).AppendTag(tagPart, part)
	in.add(in.group, in.tagged, in.stamp, in.typ, text)
	in.stamp++ // so that sorting by time keeps the order
}

// parse reads a message and says whose it is; nil if nobody's.
func (in *intake) parse(line []byte) *syslogmsg.Identity {
	m := &in.msg
	switch {
	case m.Parse5424(line, syslogmsg.RFC5424):
		in.tally.rfc5424++
	case m.Parse3164(line, in.now.In(in.s.opts.Location), in.local):
		in.tally.rfc3164++
	default:
		in.tally.unparsed++
	}
	if !m.HasTime {
		m.Timestamp = in.now.UnixNano()
	}
	o := Origin{
		Remote:   in.remote,
		Hostname: syslogmsg.View(syslogmsg.Cut(m.Hostname, syslogmsg.MaxField)),
		AppName:  syslogmsg.View(syslogmsg.Cut(m.AppName, syslogmsg.MaxField)),
		ProcID:   syslogmsg.View(syslogmsg.Cut(m.ProcID, syslogmsg.MaxField)),
	}
	if in.last == nil || in.last.Origin != o {
		in.last = in.s.find(o)
	}
	return in.last.id
}

func (in *intake) streamOf() envelope.LogType {
	if in.msg.HasPriority && in.msg.Severity <= syslogmsg.Error {
		return envelope.Err
	}
	return envelope.Out
}

func (in *intake) add(source string, fixed envelope.Fixed, stamp int64, t envelope.LogType, text []byte) {
	g := in.out.Group(source)
	g.Records = envelope.AppendLog(g.Records, fixed, stamp, t, text)
	if in.out.Added(g) {
		in.flush()
	}
}

// flush hands over what was gathered and counts it. An error of the Writer stays
// in in.err.
func (in *intake) flush() {
	records, lost, err := in.out.Flush(in.s.ctx)
	if err != nil {
		in.err = err
	}
	c, t := &in.s.counts, &in.tally
	c.rfc5424.Add(t.rfc5424)
	c.rfc3164.Add(t.rfc3164)
	c.unparsed.Add(t.unparsed)
	c.split.Add(t.split)
	c.parts.Add(t.parts)
	c.filtered.Add(t.filtered)
	c.bounded.Add(in.compose.Bounded)
	c.records.Add(records)
	c.lost.Add(lost)
	in.tally, in.compose.Bounded = tally{}, 0
}

// trimEnd takes line ends off a message, which some senders count in.
func trimEnd(line []byte) []byte {
	n := len(line)
	for n > 0 && (line[n-1] == '\n' || line[n-1] == '\r' || line[n-1] == 0) {
		n--
	}
	return line[:n]
}
