package grpcv2

import (
	"errors"
	"sync"

	"google.golang.org/grpc/mem"
)

// codec carries messages as the bytes they are: what arrives is handed on
// without being decoded, and what leaves is ring memory already encoded. Nothing
// is registered anywhere, neither this codec nor any message, so a program may
// link generated code of the same API besides.
type codec struct{}

// inbound is a message that has arrived. Its bytes are borrowed from the codec's
// memory until free.
type inbound struct {
	data []byte
	buf  mem.Buffer // that holds data; nil: pooled does
	pool *[]byte
}

// outbound is a message to be sent. The codec gives buf's reference away.
type outbound struct{ buf mem.Buffer }

// empty is a message without fields: the answer of every method of Ingress.
type empty struct{}

// foreign is a message of another service on the same server (Options.Services),
// which is bytes as well.
type foreign interface {
	MarshalBuffers() mem.BufferSlice
	UnmarshalBuffers(mem.BufferSlice)
}

var errType = errors.New("not a message of this API")

// Name is that of the codec that it stands in for, which goes over the wire.
func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *outbound:
		return mem.BufferSlice{m.buf}, nil
	case empty:
		return nil, nil
	case foreign:
		return m.MarshalBuffers(), nil
	}
	return nil, errType
}

// Unmarshal puts the frames that a message came in together: into memory of its
// own if there are several, which is the one copy between socket and ring.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *inbound:
		m.free()
		if len(data) == 1 {
			data[0].Ref()
			m.buf, m.data = data[0], data[0].ReadOnlyData()
			return nil
		}
		n := data.Len()
		m.pool = messages.Get().(*[]byte)
		if cap(*m.pool) < n {
			*m.pool = make([]byte, n)
		}
		m.data = (*m.pool)[:n]
		data.CopyTo(m.data)
		return nil
	case *empty:
		return nil
	case foreign:
		m.UnmarshalBuffers(data)
		return nil
	}
	return errType
}

// maxPooled bounds a buffer that is kept for later, in bytes.
const maxPooled = 256 << 10

var messages = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// free gives the message's memory back.
func (m *inbound) free() {
	if m.buf != nil {
		m.buf.Free()
	}
	if m.pool != nil && cap(*m.pool) <= maxPooled {
		messages.Put(m.pool)
	}
	*m = inbound{}
}

// chunkSize is how many bytes of records are gathered into one piece of memory
// at most, unless a single record is larger.
const chunkSize = 64 << 10

// chunks is the memory in which records go out. gRPC gives a chunk back when the
// last message in it has been written.
type chunkPool struct{ sync.Pool }

var chunks chunkPool

func (p *chunkPool) Get(n int) *[]byte {
	if b, _ := p.Pool.Get().(*[]byte); b != nil && cap(*b) >= n {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, max(n, chunkSize))
	return &b
}

func (p *chunkPool) Put(b *[]byte) {
	if cap(*b) == chunkSize {
		p.Pool.Put(b)
	}
}
