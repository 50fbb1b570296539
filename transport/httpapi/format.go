package httpapi

import (
	"encoding/binary"
	"encoding/json"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// format is the form of an answer.
type format int

const (
	text format = iota
	ndjson
	protobuf
)

var contentTypes = [...]string{
	text:     "text/plain; charset=utf-8",
	ndjson:   "application/x-ndjson",
	protobuf: "application/x-protobuf",
}

// negotiate chooses a format by the headers Accept (RFC 9110, section 12.5.1):
// the best-liked one that there is, the first named among equals. A browser's
// header ends at its */*, which is text.
func negotiate(accept []string) (format, bool) {
	best, weight := text, 0.0
	any := false
	for _, header := range accept {
		for item := range strings.SplitSeq(header, ",") {
			mediaType, args, _ := strings.Cut(item, ";")
			mediaType = strings.ToLower(strings.TrimSpace(mediaType))
			if mediaType == "" {
				continue
			}
			any = true
			f, ok := formatOf(mediaType)
			if q := quality(args); ok && q > weight {
				best, weight = f, q
			}
		}
	}
	return best, weight > 0 || !any
}

func formatOf(mediaType string) (format, bool) {
	switch mediaType {
	case "text/plain", "text/*", "*/*":
		return text, true
	case "application/x-ndjson", "application/ndjson", "application/json", "application/*":
		return ndjson, true
	case "application/x-protobuf", "application/protobuf":
		return protobuf, true
	}
	return 0, false
}

func quality(args string) float64 {
	for arg := range strings.SplitSeq(args, ";") {
		if v, ok := strings.CutPrefix(strings.TrimSpace(arg), "q="); ok {
			if q, err := strconv.ParseFloat(v, 64); err == nil {
				return q
			}
		}
	}
	return 1
}

// appender appends parts as one piece.
type appender func(parts ...[]byte) error

// putter returns the function that appends batches to out in that form.
func (f format) putter(out appender, loc *time.Location, withApp bool) func(envelope.Batch) error {
	switch f {
	case protobuf:
		return func(b envelope.Batch) error { return putDelimited(out, b) }
	case ndjson:
		return func(b envelope.Batch) error {
			return putRendered(out, b, envelope.Batch.AppendGapJSON, envelope.Envelope.AppendJSON)
		}
	}
	gap := func(b envelope.Batch, dst []byte) []byte { return b.AppendGapText(dst, withApp) }
	line := func(e envelope.Envelope, dst []byte) []byte {
		if dst, ok := e.AppendMissedText(dst, withApp); ok {
			return dst
		}
		return e.AppendText(dst, loc, withApp)
	}
	return func(b envelope.Batch) error { return putRendered(out, b, gap, line) }
}

// end is the last thing in a stream that ends early, for the form's reader.
// Encoded batches have no words for it.
func (f format) end(sentence string) []byte {
	switch f {
	case text:
		return []byte("-- " + sentence + " --\n")
	case ndjson:
		line, _ := json.Marshal(struct {
			Type  string `json:"type"`
			Error string `json:"error"`
		}{"end", sentence})
		return append(line, '\n')
	}
	return nil
}

// putDelimited writes the encoded batch behind its length, from ring memory.
func putDelimited(out appender, b envelope.Batch) error {
	var header [envelope.MaxBatchHeader]byte
	h := b.AppendHeader(header[:0])
	n := len(h) + len(b.Records)
	if n == 0 {
		return nil
	}
	var length [binary.MaxVarintLen64]byte
	return out(binary.AppendUvarint(length[:0], uint64(n)), h, b.Records)
}

// scratch is where batches are rendered. Readers take one for a batch, not for
// life, so quiet ones have none.
type scratch struct{ b []byte }

const scratchSize = 64 << 10

var scratches = sync.Pool{New: func() any { return &scratch{make([]byte, 0, scratchSize)} }}

// putRendered writes the batch line by line.
func putRendered(out appender, b envelope.Batch,
	gap func(envelope.Batch, []byte) []byte, line func(envelope.Envelope, []byte) []byte) error {
	if b.Count == 0 && b.Missed == 0 && !b.Reset {
		return nil
	}
	s := scratches.Get().(*scratch)
	defer func() {
		if cap(s.b) <= 2*scratchSize {
			scratches.Put(s)
		}
	}()
	s.b = gap(b, s.b[:0])
	for e, err := range b.All() {
		if err != nil {
			return err
		}
		if s.b = line(e, s.b); len(s.b) >= scratchSize/2 {
			if err := out(s.b); err != nil {
				return err
			}
			s.b = s.b[:0]
		}
	}
	return out(s.b)
}
