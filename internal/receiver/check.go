package receiver

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/influxdata/go-syslog/v3"
	"github.com/influxdata/go-syslog/v3/rfc5424"
)

// Message is what Report is told of.
type Message struct {
	Time time.Time // when it was there whole
	Conn uint64    // number of its connection, from 1
	Peer string    // address of the sender
	Path string    // of HTTPS: the request's path; a drain's may be a secret

	// Text is the message without its length; nil where something is wrong
	// outside of a message.
	Text []byte
	// Parsed is the message taken apart; nil if it is no RFC 5424.
	Parsed *rfc5424.SyslogMessage
	// Problems says in sentences what is wrong, if anything is.
	Problems []string
}

// Line is the MSG part without the LF at its end. A message that does not parse
// has none.
func (m *Message) Line() string {
	if m.Parsed == nil || m.Parsed.Message == nil {
		return ""
	}
	return strings.TrimSuffix(*m.Parsed.Message, "\n")
}

// checker parses the messages of one connection.
type checker struct{ strict syslog.Machine }

func newChecker() checker { return checker{rfc5424.NewParser()} }

// check fills in what the text says and what is wrong with it.
func (c checker) check(m *Message) {
	text := m.Text
	if len(text) == 0 {
		m.Problems = append(m.Problems, "the message is empty")
		return
	}
	parsed, err := c.strict.Parse(text)
	if err != nil {
		m.Problems = append(m.Problems, fmt.Sprintf("no RFC 5424: %s", reason(err.Error(), text)))
		return
	}
	m.Parsed = parsed.(*rfc5424.SyslogMessage)
	if text[len(text)-1] != '\n' {
		m.Problems = append(m.Problems, "there is no LF at the end, which Cloud Foundry's drains have")
	}
	if bytes.IndexByte(text, 0) >= 0 {
		m.Problems = append(m.Problems, "it holds a NUL byte, which many receivers take for the end")
	}
}

// checkHeroku is check for the form of Heroku's HTTPS drains: RFC 5424 but for
// the structured data, which is not there.
func (c checker) checkHeroku(m *Message) {
	text := m.Text
	at := 0
	for range 6 { // PRI and VERSION, TIMESTAMP, HOSTNAME, APP-NAME, PROCID, MSGID
		i := bytes.IndexByte(text[at:], ' ')
		if i < 0 {
			m.Problems = append(m.Problems, "no message of Heroku's form: the header has fewer than six fields")
			return
		}
		at += i + 1
	}
	whole := append(append(append([]byte(nil), text[:at]...), "- "...), text[at:]...)
	parsed, err := c.strict.Parse(whole)
	if err != nil {
		m.Problems = append(m.Problems, fmt.Sprintf("no message of Heroku's form: %s", reason(err.Error(), whole)))
		return
	}
	m.Parsed = parsed.(*rfc5424.SyslogMessage)
}

// reason adds to a parser's error, which names a column, what stands there.
func reason(err string, text []byte) string {
	var col int
	if _, tail, ok := strings.Cut(err, "[col "); ok {
		fmt.Sscanf(tail, "%d]", &col)
	}
	if col < 0 || col > len(text) {
		return err
	}
	around := text[max(0, col-12):min(len(text), col+12)]
	return fmt.Sprintf("%s, near %q", err, around)
}
