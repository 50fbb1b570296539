package syslogmsg

import "bytes"

// Dialect is what may stand between MSGID and the text.
type Dialect uint8

const (
	// RFC5424 is structured data or "-".
	RFC5424 Dialect = iota
	// Either is that or, as Logplex has it, nothing. Elements without
	// parameters, [like this], are text there.
	Either
	// None is nothing: the text begins at once. So Logplex itself writes.
	None
)

var bom = []byte("\xef\xbb\xbf")

// Parse5424 reads an RFC 5424 message (section 6), and reports whether line is
// one. Where it is not, m holds nothing of use.
func (m *Message) Parse5424(line []byte, d Dialect) bool {
	*m = Message{}
	b, ok := m.priority(line)
	if !ok {
		return false
	}
	// VERSION: 1 to 999.
	n := 0
	for n < len(b) && n < 3 && isDigit(b[n]) {
		n++
	}
	if n == 0 || b[0] == '0' || n == len(b) || b[n] != ' ' {
		return false
	}
	b = b[n+1:]

	if len(b) >= 2 && b[0] == '-' && b[1] == ' ' {
		b = b[2:]
	} else {
		n := m.time(b)
		if n == 0 || n == len(b) || b[n] != ' ' {
			return false
		}
		b = b[n+1:]
	}
	if m.Hostname, b, ok = field(b); !ok {
		return false
	}
	if m.AppName, b, ok = field(b); !ok {
		return false
	}
	if m.ProcID, b, ok = field(b); !ok {
		return false
	}
	id, rest, ok := field(b)
	if !ok {
		// Logplex has nothing after MSGID where the text is empty.
		if d == RFC5424 || !isName(b) {
			return false
		}
		if string(b) != "-" {
			m.MsgID = b
		}
		return true
	}
	m.MsgID, b = id, rest

	switch {
	case d == None:
	case len(b) > 0 && b[0] == '-' && (len(b) == 1 || b[1] == ' '):
		b = b[1:]
		if len(b) > 0 {
			b = b[1:]
		}
	case len(b) > 0 && b[0] == '[':
		n, params := structured(b)
		switch {
		case n > 0 && (d == RFC5424 || params) && (n == len(b) || b[n] == ' '):
			m.Structured, b = b[:n], b[n:]
			if len(b) > 0 {
				b = b[1:]
			}
		case d == RFC5424:
			return false
		}
	case d == RFC5424:
		return false
	}
	m.Text = bytes.TrimPrefix(b, bom)
	return true
}

// isName reports whether all of b is one name.
func isName(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c == 0x7f {
			return false
		}
	}
	return len(b) > 0
}

// structured is the length of the elements at the beginning of b, zero if they
// are not whole, and whether each of them has parameters.
func structured(b []byte) (n int, params bool) {
	p := Params{rest: b}
	params = true
	for p.Next() {
		n = len(b) - len(p.rest)
		params = params && p.Name != nil
		if p.id == nil && (len(p.rest) == 0 || p.rest[0] != '[') {
			return n, params
		}
	}
	return 0, false
}

// Params walks over the parameters of structured data. An element without
// parameters is one without a name.
type Params struct {
	ID, Name []byte
	Value    []byte // as it stands there, with its escapes, see AppendUnescaped
	Escaped  bool   // whether it has any

	rest []byte
	id   []byte // of the element that rest is inside of; nil between elements
}

// Params begins a walk.
func (m *Message) Params() Params { return Params{rest: m.Structured} }

// Next goes to the next parameter and reports whether there is one.
func (p *Params) Next() bool {
	b := p.rest
	if p.id == nil {
		if len(b) == 0 || b[0] != '[' {
			return false
		}
		n := nameEnd(b[1:])
		if n == 0 {
			return false
		}
		p.id, b = b[1:1+n], b[1+n:]
		p.ID, p.Name, p.Value, p.Escaped = p.id, nil, nil, false
		if len(b) > 0 && b[0] == ']' {
			p.rest, p.id = b[1:], nil
			return true
		}
	}
	if len(b) == 0 || b[0] != ' ' {
		return false
	}
	b = b[1:]
	n := nameEnd(b)
	if n == 0 || len(b) < n+2 || b[n] != '=' || b[n+1] != '"' {
		return false
	}
	p.Name, b = b[:n], b[n+2:]
	p.Escaped = false
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '\\':
			p.Escaped = true
			i++
		case '"':
			p.Value, b = b[:i], b[i+1:]
			if len(b) > 0 && b[0] == ']' {
				b, p.id = b[1:], nil
			}
			p.rest = b
			return true
		}
	}
	return false
}

// nameEnd is the length of the SD-NAME at the beginning of b.
func nameEnd(b []byte) int {
	for i, c := range b {
		if c <= ' ' || c >= 0x7f || c == '=' || c == ']' || c == '"' {
			return i
		}
	}
	return 0
}

// AppendUnescaped appends a value without its escapes: a backslash goes where a
// quote, a bracket or a backslash follows, and stays elsewhere (RFC 5424,
// section 6.3.3).
func AppendUnescaped(dst, value []byte) []byte {
	for i := 0; i < len(value); i++ {
		c := value[i]
		if c == '\\' && i+1 < len(value) {
			if next := value[i+1]; next == '"' || next == ']' || next == '\\' {
				i++
				c = next
			}
		}
		dst = append(dst, c)
	}
	return dst
}
