package follow

import (
	"bytes"
	"errors"
	"regexp"
	"time"
)

// Join says which lines belong together. Of Start, Continue and Indent exactly
// one is set.
type Join struct {
	// Start matches the lines that begin a record; all others belong to the one
	// before.
	Start *regexp.Regexp
	// Continue matches the lines that belong to the one before.
	Continue *regexp.Regexp
	// Indent takes lines that begin with a space or tab for part of the one
	// before, and those by which stack traces of the JVM go on: "Caused by: " and
	// "Suppressed: ".
	Indent bool

	// MaxBytes bounds a record; the line that would be too much begins another.
	// Default 60 KiB, which a record takes without being cut; at most 256 KiB.
	MaxBytes int
	// MaxLines bounds the lines of a record. Default 1,000.
	MaxLines int
	// Wait is how long a record waits for more lines. Default 1 s.
	Wait time.Duration
}

// Defaults and bound of Join.
const (
	defaultJoinBytes = 60 << 10
	maxJoinBytes     = 256 << 10
	defaultJoinLines = 1000
	defaultJoinWait  = time.Second
)

// Check reports what is wrong with a rule. None at all is right.
func (j *Join) Check() error {
	_, err := j.withDefaults()
	return err
}

func (j *Join) withDefaults() (*Join, error) {
	if j == nil {
		return nil, nil
	}
	c := *j
	n := 0
	for _, set := range []bool{c.Start != nil, c.Continue != nil, c.Indent} {
		if set {
			n++
		}
	}
	if n != 1 {
		return nil, errors.New("joining lines takes one rule: start, continue or indent")
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = defaultJoinBytes
	}
	if c.MaxLines == 0 {
		c.MaxLines = defaultJoinLines
	}
	if c.Wait == 0 {
		c.Wait = defaultJoinWait
	}
	if c.MaxBytes < 1 || c.MaxBytes > maxJoinBytes || c.MaxLines < 1 || c.Wait < 0 {
		return nil, errors.New("joining lines: at most 262144 bytes, at least 1 line, and no negative time")
	}
	return &c, nil
}

var jvm = [][]byte{[]byte("Caused by: "), []byte("Suppressed: ")}

// continues reports whether a line belongs to the one before it.
func (j *Join) continues(line []byte) bool {
	switch {
	case j.Start != nil:
		return !j.Start.Match(line)
	case j.Continue != nil:
		return j.Continue.Match(line)
	}
	if len(line) == 0 {
		return false
	}
	if line[0] == ' ' || line[0] == '\t' {
		return true
	}
	for _, begin := range jvm {
		if bytes.HasPrefix(line, begin) {
			return true
		}
	}
	return false
}

// ending says how much of the text there is.
type ending int

const (
	more     ending = iota // something may follow
	quiet                  // nothing has followed for a while: what has a line end goes
	complete               // nothing will follow
)

// maxText is the longest text of one record before it is cut for the emitter's
// limit, too; a longer line is several.
const maxText = 256 << 10

// next finds the first record of data: its text, without the last line end, and
// how many bytes it takes. ok is false if more of data must be seen first. A
// record is the same however often data is looked at while it grows, unless the
// ending is forced on it by quiet or complete.
func next(j *Join, data []byte, end ending) (text []byte, used int, ok bool) {
	if j != nil {
		return j.next(data, end)
	}
	return nextLine(data, end)
}

func nextLine(data []byte, end ending) (text []byte, used int, ok bool) {
	if i := bytes.IndexByte(data[:min(len(data), maxText+1)], '\n'); i >= 0 {
		return trimCR(data[:i]), i + 1, true
	}
	if len(data) > maxText {
		return data[:maxText], maxText, true
	}
	if end == complete && len(data) > 0 {
		return trimCR(data), len(data), true
	}
	return nil, 0, false
}

func (j *Join) next(data []byte, end ending) (text []byte, used int, ok bool) {
	for lines := 0; ; lines++ {
		line, n, ok := nextLine(data[used:], end)
		if !ok {
			break // the line is not there yet
		}
		if lines > 0 && (lines >= j.MaxLines || used+len(line) > j.MaxBytes || !j.continues(line)) {
			return text, used, true
		}
		text = data[:used+len(line)]
		used += n
		if used >= j.MaxBytes {
			return text, used, true
		}
	}
	if used > 0 && end != more {
		return text, used, true
	}
	return nil, 0, false
}

func trimCR(line []byte) []byte {
	if n := len(line); n > 0 && line[n-1] == '\r' {
		return line[:n-1]
	}
	return line
}
