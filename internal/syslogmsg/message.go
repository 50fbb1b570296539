// Package syslogmsg reads syslog messages as they are found on the wire: those
// of RFC 5424, Logplex's dialect of it, and what RFC 3164 describes.
//
// Whatever is read aliases the message, and nothing is allocated: reading a
// message is most of what it costs to take one in. The parser of
// github.com/influxdata/go-syslog, which makes a string of every field, is what
// this one is fuzzed against: what that one takes, this one takes, with the same
// fields. It takes more, because a line from a program that does not follow the
// letter is still a line that somebody needs: names longer than the RFC allows,
// times with nanoseconds, text that is not UTF-8, elements given twice.
package syslogmsg

// Message is one syslog message. The byte slices alias what was parsed; nil
// means that the field is absent or "-".
type Message struct {
	HasPriority        bool
	Facility, Severity uint8

	HasTime   bool
	Timestamp int64 // nanoseconds since 1970 UTC

	Hostname, AppName, ProcID, MsgID []byte

	// Structured is the structured data as it stands there, see Params.
	Structured []byte
	Text       []byte
}

var severities = [8]string{"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}

// Error is the least bad severity (RFC 5424, section 6.2.1) that is an error.
const Error = 3

// SeverityName is the severity's keyword, as in syslog.conf.
func SeverityName(severity uint8) string { return severities[severity&7] }

var facilities = [24]string{
	"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
	"ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
}

// FacilityName is the facility's keyword.
func FacilityName(facility uint8) string {
	if int(facility) < len(facilities) {
		return facilities[facility]
	}
	return ""
}

// priority reads "<PRI>" and returns what follows.
func (m *Message) priority(b []byte) ([]byte, bool) {
	if len(b) < 3 || b[0] != '<' {
		return nil, false
	}
	n, i := 0, 1
	for ; i < len(b) && i <= 3 && isDigit(b[i]); i++ {
		n = 10*n + int(b[i]-'0')
	}
	if i == 1 || i >= len(b) || b[i] != '>' || n > 191 {
		return nil, false
	}
	m.HasPriority, m.Facility, m.Severity = true, uint8(n/8), uint8(n%8)
	return b[i+1:], true
}

func isDigit(c byte) bool { return c-'0' <= 9 }

// field takes a name off b: printable bytes up to a space. It is nil for "-".
func field(b []byte) (name, rest []byte, ok bool) {
	for i, c := range b {
		if c == ' ' {
			if i == 0 {
				return nil, nil, false
			}
			if name = b[:i]; i == 1 && b[0] == '-' {
				name = nil
			}
			return name, b[i+1:], true
		}
		if c < ' ' || c == 0x7f {
			return nil, nil, false
		}
	}
	return nil, nil, false
}
