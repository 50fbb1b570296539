package syslogin

import (
	"bytes"

	"github.com/cloudfoundry/loggregator/internal/syslogmsg"
)

// framer finds the messages in a stream of bytes and hands them to an intake.
// Each frame tells by its first bytes how it is framed (RFC 6587, section 3.4.1
// and 3.4.2): a number, a space and "<" begin one that is counted in octets;
// anything else ends with LF, or NUL. So lines that begin with a number are lines.
//
// A message longer than limit goes on in parts as its bytes arrive.
type framer struct {
	in    *intake
	limit int

	buf        []byte
	start, end int // bytes read and not yet consumed: buf[start:end]
	scanned    int // of those, bytes that are known to hold no end of a line

	splitting bool // a part of the message has been taken
	counted   bool // the message under way is counted …
	left      int  // … and that many octets of it are still to be consumed
}

// maxDigits of an octet count; a larger number is not one.
const maxDigits = 9

// consume takes what is whole, and reports whether it took anything.
func (r *framer) consume() bool {
	before := r.start
	for r.start < r.end {
		rest := r.buf[r.start:r.end]
		switch {
		case r.counted:
			if !r.takeCounted(rest) {
				return r.start > before
			}
		case !r.splitting && rest[0] <= '\r' && (rest[0] == '\n' || rest[0] == '\r' || rest[0] == 0):
			r.start++ // between messages
			r.scanned = 0
		default:
			if !r.splitting && r.scanned == 0 {
				size, head, more := octetCount(rest)
				if more {
					return r.start > before
				}
				if head > 0 {
					r.counted, r.left = true, size
					r.start += head
					continue
				}
			}
			if !r.takeLine(rest) {
				return r.start > before
			}
		}
	}
	return r.start > before
}

// takeCounted takes a message that is counted, or a part of a long one; false
// means that more bytes are needed.
func (r *framer) takeCounted(rest []byte) bool {
	switch {
	case r.left <= len(rest) && r.left <= r.limit:
		r.give(rest[:r.left])
		r.start += r.left
		r.counted, r.left = false, 0
		return true
	case len(rest) > r.limit:
		r.left -= r.part(rest)
		return true
	}
	return false
}

// takeLine does so with one that ends with LF or NUL.
func (r *framer) takeLine(rest []byte) bool {
	if end := lineEnd(rest, r.scanned); end >= 0 && end <= r.limit {
		r.give(rest[:end])
		r.start += end + 1
		r.scanned = 0
		return true
	}
	if len(rest) > r.limit {
		n := r.part(rest)
		r.scanned = max(0, r.scanned-n)
		return true
	}
	r.scanned = len(rest)
	return false
}

func (r *framer) give(message []byte) {
	if r.splitting {
		r.in.longEnd(message)
		r.splitting = false
		return
	}
	if message = trimEnd(message); len(message) > 0 {
		r.in.message(message)
	}
}

// part takes a part of a message longer than limit, and returns its length.
func (r *framer) part(rest []byte) int {
	n := syslogmsg.CutAt(rest, r.limit)
	r.in.long(rest[:n])
	r.splitting = true
	r.start += n
	return n
}

// finish takes what has come of a message whose sender has nothing more to say.
// It reports whether the message is known to be incomplete: a line may end
// without LF.
func (r *framer) finish() (truncated bool) {
	truncated = r.counted
	rest := r.buf[r.start:r.end]
	if r.splitting || len(rest) > 0 {
		r.give(rest)
	}
	r.start, r.end, r.scanned = 0, 0, 0
	r.counted, r.left, r.splitting = false, 0, false
	return truncated
}

// pending reports whether a message is under way.
func (r *framer) pending() bool { return r.start < r.end || r.splitting || r.counted }

// compact moves what is unconsumed to the front.
func (r *framer) compact() {
	if r.start > 0 {
		r.end = copy(r.buf, r.buf[r.start:r.end])
		r.start = 0
	}
}

// move goes on in another buffer, after compact.
func (r *framer) move(buf []byte) {
	copy(buf, r.buf[:r.end])
	r.buf = buf
}

// octetCount reads "LEN <" from the beginning of b: how long the message is and
// how long the head before it, zero if there is none. More means that more bytes
// are needed to tell.
func octetCount(b []byte) (size, head int, more bool) {
	n := 0
	for n < len(b) && n <= maxDigits && b[n]-'0' <= 9 {
		size = 10*size + int(b[n]-'0')
		n++
	}
	switch {
	case n == 0 || b[0] == '0' || n > maxDigits:
		return 0, 0, false
	case n == len(b):
		return 0, 0, true
	case b[n] != ' ':
		return 0, 0, false
	case n+1 == len(b):
		return 0, 0, true
	case b[n+1] != '<':
		return 0, 0, false
	}
	return size, n + 1, false
}

// lineEnd is where the first LF or NUL of b is, of which scanned bytes hold
// neither; negative if there is none.
func lineEnd(b []byte, scanned int) int {
	end := bytes.IndexByte(b[scanned:], '\n')
	line := b[scanned:]
	if end >= 0 {
		line = line[:end]
	}
	if nul := bytes.IndexByte(line, 0); nul >= 0 {
		end = nul
	}
	if end < 0 {
		return -1
	}
	return scanned + end
}
