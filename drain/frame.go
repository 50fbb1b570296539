package drain

import (
	"bytes"
	"strconv"
)

// reserved is room for the length of a message of up to 999 bytes and a space.
// A longer one is moved: that costs less than working the length out first.
const reserved = 4

func openFrame(dst []byte) ([]byte, int) {
	dst = append(dst, "    "...)
	return dst, len(dst)
}

// closeFrame ends the message dst[start:], which ends in LF: in octet counting
// (RFC 6587, section 3.4.1) it writes the message's length in front of it.
func (f *Formatter) closeFrame(dst []byte, start int) []byte {
	n := len(dst) - start
	if f.lines {
		return closeLine(dst, start)
	}
	var buf [20]byte
	prefix := append(strconv.AppendInt(buf[:0], int64(n), 10), ' ')
	if len(prefix) != reserved {
		if len(prefix) > reserved {
			dst = append(dst, buf[:len(prefix)-reserved]...)
		}
		copy(dst[start-reserved+len(prefix):], dst[start:start+n])
		dst = dst[:start-reserved+len(prefix)+n]
	}
	copy(dst[start-reserved:], prefix)
	return dst
}

// closeLine ends a message by its LF alone (RFC 6587, section 3.4.2): no LF may
// be inside, so each becomes a space.
func closeLine(dst []byte, start int) []byte {
	n := copy(dst[start-reserved:], dst[start:])
	dst = dst[:start-reserved+n]
	message := dst[start-reserved : len(dst)-1]
	for i := bytes.IndexByte(message, '\n'); i >= 0; i = bytes.IndexByte(message, '\n') {
		message[i] = ' '
		message = message[i+1:]
	}
	return dst
}

// nextFrame takes the first message off frames in octet counting, and gives it
// without its length.
func nextFrame(frames []byte) (message, rest []byte) {
	i := bytes.IndexByte(frames, ' ')
	if i < 0 {
		return nil, nil
	}
	n, err := strconv.Atoi(string(frames[:i]))
	if err != nil || n > len(frames)-i-1 {
		return nil, nil
	}
	return frames[i+1 : i+1+n], frames[i+1+n:]
}
