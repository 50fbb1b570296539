package transport

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"slices"
)

// The read link's frames, both ways: a varint, how many bytes follow; a byte, the
// kind; a varint, the query it belongs to, or 0; and the body.
//
//	hello    both     the text and version below; the first frame each way
//	open     reader   mode, credit as a varint, envelope.AppendQuery
//	credit   reader   a varint: so many bytes of bodies more may be sent
//	cancel   reader   -
//	ping     reader   -
//	pong     server   -
//	batch    server   an EnvelopeBatch, its header first
//	caught   server   - ; all that was there at the start has been sent
//	woke     server   - ; and the query is over
//	known    server   a byte, 0 or 1; and the query is over
//	sources  server   envelope.SourceInfo, each behind its length as a varint
//	end      server   a code and a text; and the query is over
//
// Batches and sources take credit by the length of their bodies. A server sends as
// long as there is any, so the last one may go beyond it.
const (
	kindHello  = 1
	kindOpen   = 2
	kindCredit = 3
	kindCancel = 4
	kindPing   = 5

	kindBatch   = 16
	kindCaught  = 17
	kindEnd     = 18
	kindWoke    = 19
	kindKnown   = 20
	kindSources = 21
	kindPong    = 22
)

// What a query is opened for.
const (
	modeRead    = 0 // batches
	modeWake    = 1 // to be told once when there is something beyond the cursor
	modeKnown   = 2
	modeSources = 3
)

// How a query ended.
const (
	endDone    = 0 // there is no more
	endClosed  = 1 // the server's source has ended, or the server is shutting down
	endRefused = 2 // the query will not be answered, however often it is asked
	endBusy    = 3 // too many queries
	endFailed  = 4 // the source failed, as the text says
)

// greeting is the body of a hello; the last byte is the version.
const greeting = "loggregator read link\x01"

const (
	maxHello   = 64
	maxRequest = 32 << 20 // holds a query with a cursor of envelope.MaxPositions
	maxAnswer  = 12 << 20 // holds the largest batch
	maxText    = 1 << 10  // of an end
)

var (
	errFrame = errors.New("transport: not a frame of the read link")
	errHello = errors.New("transport: the other end does not speak the read link, or another version of it")
)

// frame is one as it was read; its body is borrowed until the next.
type frame struct {
	kind byte
	id   uint64
	body []byte
}

// appendFrameHead appends a frame up to its body, which has size bytes.
func appendFrameHead(dst []byte, kind byte, id uint64, size int) []byte {
	var buf [1 + binary.MaxVarintLen64]byte
	head := binary.AppendUvarint(append(buf[:0], kind), id)
	dst = binary.AppendUvarint(dst, uint64(len(head)+size))
	return append(dst, head...)
}

func appendFrame(dst []byte, kind byte, id uint64, body ...byte) []byte {
	return append(appendFrameHead(dst, kind, id, len(body)), body...)
}

func helloFrame() []byte { return appendFrame(nil, kindHello, 0, []byte(greeting)...) }

// frames reads frames of up to max bytes.
type frames struct {
	in  *bufio.Reader
	max int
	big []byte // a frame that is larger than in's buffer; given up with the next one that is not
}

func (f *frames) next() (frame, error) {
	size, err := binary.ReadUvarint(f.in)
	if err != nil {
		return frame{}, err
	}
	if size < 2 || size > uint64(f.max) {
		return frame{}, errFrame
	}
	n := int(size)
	var b []byte
	if n <= f.in.Size() {
		f.big = nil
		if b, err = f.in.Peek(n); err == nil {
			f.in.Discard(n)
		}
	} else {
		b, err = f.readBig(n)
	}
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	id, m := binary.Uvarint(b[1:])
	if m <= 0 {
		return frame{}, errFrame
	}
	return frame{kind: b[0], id: id, body: b[1+m:]}, nil
}

// readBig reads a frame into memory that grows with what arrives.
func (f *frames) readBig(n int) ([]byte, error) {
	f.big = f.big[:0]
	for len(f.big) < n {
		if len(f.big) == cap(f.big) {
			f.big = slices.Grow(f.big, min(n-len(f.big), max(len(f.big), f.in.Size())))
		}
		m, err := f.in.Read(f.big[len(f.big):min(n, cap(f.big))])
		f.big = f.big[:len(f.big)+m]
		if err != nil {
			return nil, err
		}
	}
	return f.big, nil
}
