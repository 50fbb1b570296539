package drain

import "bytes"

// layout is the form of messages.
type layout uint8

const (
	cloudFoundry layout = iota
	// heroku is the form of Heroku's HTTPS drains: host, app and dyno, and no
	// structured data, not even a dash, which makes it not quite RFC 5424.
	heroku
	// herokuFull is the same with the dash, and the form of Heroku's syslog
	// drains, which have the drain's token as HOSTNAME.
	herokuFull
)

// herokuLine is where Heroku cuts a line, in bytes.
const herokuLine = 10_000

// setDyno sets what Heroku's forms have of the source type: "app web" for
// APP/PROC/WEB, "heroku router" for RTR; and the priorities that Heroku gives.
// Heroku does not tell the streams apart; stderr gets the severity error here.
func (h *header) setDyno() {
	h.out, h.err = "<45>1 ", "<43>1 " // syslog.notice, of the platform
	h.instance = false
	first, _, _ := bytes.Cut(h.sourceType, []byte{'/'})
	last := h.sourceType[bytes.LastIndexByte(h.sourceType, '/')+1:]
	dst := h.dyno[:0]
	switch {
	case string(first) == "APP" && len(last) > 0:
		h.out, h.err = "<190>1 ", "<187>1 " // local7
		h.instance = true
		dst = append(dst, "app "...)
		if string(h.sourceType) == "APP" {
			last = []byte("WEB")
		}
	case string(first) == "RTR":
		h.out, h.err = "<158>1 ", "<155>1 " // local3
		dst, last = append(dst, "heroku "...), []byte("ROUTER")
	case string(first) == "LGR" || len(first) == 0:
		dst, last = append(dst, "heroku "...), []byte("LOGPLEX")
	default:
		dst, last = append(dst, "heroku "...), first
	}
	for _, c := range last[:min(len(last), maxProcID/2-1)] {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	h.dyno = dst
}
