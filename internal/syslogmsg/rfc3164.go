package syslogmsg

import (
	"bytes"
	"time"
)

// Parse3164 reads what RFC 3164 describes, as programs write it: a priority, a
// time of either RFC, a host, a tag with a process id in brackets, and text.
//
//	<34>Oct 11 22:14:15 mymachine su[17]: 'su root' failed
//
// It reports whether line has at least a priority and a time; where it has none
// but a priority, m has that, and all of line as its text.
//
// local says that the message comes from a program on this machine, which mostly
// names no host: so the C library writes to /dev/log. There, a word is a host only
// where a tag follows it. A name that ends in a colon, or has a process id, is a
// tag also elsewhere. now is when the message
// arrived, in the location in which the sender's clock is.
func (m *Message) Parse3164(line []byte, now time.Time, local bool) bool {
	*m = Message{Text: line}
	b, ok := m.priority(line)
	if !ok {
		return false
	}
	n := m.time(b)
	if n == 0 {
		n = m.stamp(b, now)
	}
	if n == 0 || n < len(b) && b[n] != ' ' {
		m.HasTime, m.Timestamp = false, 0
		return false
	}
	b = b[n:]
	if len(b) > 0 {
		b = b[1:]
	}
	if host, rest, ok := field(b); ok && tagEnd(host) == 0 && (!local || tagEnd(word(rest)) > 0) {
		m.Hostname, b = host, rest
	}
	m.Text = m.tag(b)
	return true
}

// tag takes "name[id]: " off the text, where it stands there.
func (m *Message) tag(b []byte) []byte {
	end := len(word(b))
	n := tagEnd(b[:end])
	if n == 0 {
		return b
	}
	m.AppName = b[:n]
	if len(m.AppName) == 1 && b[0] == '-' {
		m.AppName = nil
	}
	if b[n] == '[' {
		id := bytes.IndexByte(b[n:end], ']')
		m.ProcID = b[n+1 : n+id]
		n += id + 1
	}
	if n < len(b) && b[n] == ':' {
		n++
	}
	if n < len(b) && b[n] == ' ' {
		n++
	}
	return b[n:]
}

// word is the first word of b, if a space follows it. A single word is text.
func word(b []byte) []byte { return b[:max(0, bytes.IndexByte(b, ' '))] }

// tagEnd is the length of the program's name where word is a tag: "name:",
// "name[id]" or "name[id]:…". Zero means that it is none, as http://host/ and
// addresses of IPv6 are none.
func tagEnd(word []byte) int {
	for i, c := range word {
		switch {
		case c == ':':
			if i+1 < len(word) {
				return 0
			}
			return i
		case c == '[':
			id := bytes.IndexByte(word[i:], ']')
			if id < 2 || i+id+1 < len(word) && word[i+id+1] != ':' {
				return 0
			}
			return i
		case c <= ' ' || c == 0x7f:
			return 0
		}
	}
	return 0
}
