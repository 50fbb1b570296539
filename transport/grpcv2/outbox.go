package grpcv2

import (
	"sync"

	"google.golang.org/grpc/mem"

	"github.com/cloudfoundry/loggregator/envelope"
)

// outbox gathers batches into messages without holding any back. The reader of
// the rings appends; as long as there is something, a goroutine sends it. While
// it is busy with one chunk, the next one fills, so messages grow with the load by
// themselves. An outbox that is empty has neither memory nor goroutine.
//
// It holds at most two chunks, of 64 KiB or one larger record each, beside those
// that another reader has left to it; then append waits.
type outbox struct {
	send    func(mem.Buffer) error // takes the reference, also when it fails
	single  bool                   // a message is an Envelope, not an EnvelopeBatch
	records int                    // in a message, at most
	bytes   int                    // in a message of several records, at most
	sent    func(records, bytes int)

	mu      sync.Mutex
	changed sync.Cond
	queue   []*chunk // those that wait for the goroutine
	sending bool
	err     error // the first failure; nothing is sent after it
	unsent  []byte
}

// chunk is a piece of memory full of records.
type chunk struct {
	data   *[]byte
	sealed bool // takes no more
}

// init must be called before anything else.
func (o *outbox) init() { o.changed.L = &o.mu }

// room is the chunk that n more bytes go into, which may be a new one; nil if
// there is no room for it. The lock is held.
func (o *outbox) room(n int) *chunk {
	if k := len(o.queue); k > 0 {
		if last := o.queue[k-1]; !last.sealed && len(*last.data)+n <= chunkSize {
			return last
		}
		return nil
	}
	c := &chunk{data: chunks.Get(n)}
	*c.data = (*c.data)[:0]
	o.queue = append(o.queue, c)
	return c
}

// append appends the parts, whole records, as one piece. It waits while there is
// no room. It is false when sending has failed.
func (o *outbox) append(parts ...[]byte) bool {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n == 0 {
		return true
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	var c *chunk
	for o.err == nil {
		if c = o.room(n); c != nil {
			break
		}
		o.changed.Wait()
	}
	if o.err != nil {
		return false
	}
	for _, p := range parts {
		*c.data = append(*c.data, p...)
	}
	o.start()
	return true
}

// push puts records that another outbox has not sent in line, without waiting.
// It is false when sending has failed.
func (o *outbox) push(run []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return false
	}
	c := &chunk{data: chunks.Get(len(run)), sealed: true}
	copy(*c.data, run)
	o.queue = append(o.queue, c)
	o.start()
	return true
}

func (o *outbox) start() {
	if !o.sending {
		o.sending = true
		go o.run()
	}
}

// run sends until there is nothing left.
func (o *outbox) run() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.queue) > 0 {
		c := o.queue[0]
		o.queue = o.queue[1:]
		if o.err != nil {
			o.unsent = append(o.unsent, *c.data...)
			continue
		}
		o.changed.Broadcast()
		o.mu.Unlock()
		rest, err := o.sendAll(c)
		o.mu.Lock()
		if err != nil && o.err == nil {
			o.err = err
		}
		o.unsent = append(o.unsent, rest...)
	}
	o.queue = nil
	o.sending = false
	o.changed.Broadcast()
}

// sendAll sends a chunk in messages. It returns a copy of what has not been sent.
func (o *outbox) sendAll(c *chunk) (rest []byte, err error) {
	data := *c.data
	buf := mem.NewBuffer(c.data, &chunks)
	defer buf.Free()
	for at := 0; at < len(data); {
		size, count := o.cut(data[at:])
		start := at
		if o.single {
			e, _, _ := envelope.Next(data[at : at+size])
			start = at + size - len(e)
		}
		if err := o.send(buf.Slice(start, at+size)); err != nil {
			return append(rest, data[at:]...), err
		}
		o.sent(count, size)
		at += size
	}
	return nil, nil
}

// cut measures the records of the next message.
func (o *outbox) cut(run []byte) (size, count int) {
	most := o.records
	if o.single {
		most = 1
	}
	for size < len(run) && count < most {
		_, rest, err := envelope.Next(run[size:])
		if err != nil { // cannot be: what a Source yields are records
			return len(run), count + 1
		}
		end := len(run) - len(rest)
		if count > 0 && end > o.bytes {
			break
		}
		size = end
		count++
	}
	return size, count
}

// flush waits until all is sent, or sending has failed. It returns what has not
// been sent, which is forgotten here.
func (o *outbox) flush() (unsent []byte, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.sending {
		o.changed.Wait()
	}
	unsent, o.unsent = o.unsent, nil
	return unsent, o.err
}
