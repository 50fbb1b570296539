package drain

import (
	"bytes"
	"hash/maphash"

	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	// keepBuffer is the largest scratch buffer kept from one record to the next.
	keepBuffer = 16 << 10
	// maxHeader and maxHeaders bound what one prepared header and all of them
	// take, in bytes, about.
	maxHeader  = 8 << 10
	maxHeaders = 64 << 10
)

// header is what a message's header has from the source id and the tags of its
// record. To make it, the tags are parsed, sorted and escaped, so it is kept.
type header struct {
	source, tags []byte // what it was made of

	head       []byte // " HOSTNAME APP-NAME [", for logs and measurements alike
	sourceType []byte // cleaned and in upper case
	element    []byte // [tags@47450 …]

	// In Heroku's forms:
	dyno     []byte // APP-NAME and PROCID without the instance
	instance bool   // the instance follows them
	out, err string // PRI and version, for both streams
}

func (h *header) is(r *envelope.Route) bool {
	return string(h.source) == string(r.SourceID) && string(h.tags) == string(r.Tags)
}

func (h *header) size() int {
	return len(h.source) + len(h.tags) + len(h.head) + len(h.sourceType) + len(h.element) + len(h.dyno) + 256
}

// host is the HOSTNAME.
func (h *header) host() []byte { return h.head[1 : 1+bytes.IndexByte(h.head[1:], ' ')] }

// headers are those of sources whose records come by turns: two for each of 32
// hash values, the newer one first.
type headers struct {
	seed  maphash.Seed
	slots [32][2]*header
	bytes int
}

// prepare gives the header of a record. Records of one source mostly follow each
// other with the same tags: then it costs two comparisons; where sources
// alternate, a hash besides.
func (f *Formatter) prepare(e envelope.Envelope, r *envelope.Route) *header {
	if h := f.last; h != nil && !r.Scattered && h.is(r) {
		return h
	}
	if r.Scattered || len(r.Tags) > maxHeader/4 {
		if f.odd == nil {
			f.odd = new(header)
		}
		f.make(f.odd, e, r)
		return f.odd
	}
	if f.last == nil {
		f.last = new(header)
		f.make(f.last, e, r)
		f.last.remember(r)
		return f.last
	}
	if f.headers == nil || f.headers.bytes > maxHeaders {
		f.headers = &headers{seed: maphash.MakeSeed()}
		f.headers.add(f.last)
	}
	slot := f.headers.slot(r.SourceID, r.Tags)
	for i, h := range slot {
		if h != nil && h.is(r) {
			slot[0], slot[i] = h, slot[0]
			f.last = h
			return h
		}
	}
	h := slot[1]
	switch {
	case h == nil || h == f.last:
		h = new(header)
	default:
		f.headers.bytes -= h.size()
	}
	slot[0], slot[1] = h, slot[0]
	f.make(h, e, r)
	h.remember(r)
	f.headers.bytes += h.size()
	f.last = h
	return h
}

func (c *headers) slot(source, tags []byte) *[2]*header {
	return &c.slots[(maphash.Bytes(c.seed, source)^maphash.Bytes(c.seed, tags)*3)%uint64(len(c.slots))]
}

func (c *headers) add(h *header) {
	slot := c.slot(h.source, h.tags)
	slot[0], slot[1] = h, slot[0]
	c.bytes += h.size()
}

func (h *header) remember(r *envelope.Route) {
	h.source = append(h.source[:0], r.SourceID...)
	h.tags = append(h.tags[:0], r.Tags...)
}

// make makes h for e.
func (f *Formatter) make(h *header, e envelope.Envelope, r *envelope.Route) {
	h.source, h.tags, h.element = h.source[:0], h.tags[:0], reuse(h.element)
	if cap(f.list) > 1024 {
		f.list = nil
	}
	f.list = e.AppendTags(f.list[:0])
	var org, space, app, sourceType []byte
	var named bool
	for _, t := range f.list {
		switch string(t.Key) {
		case envelope.TagOrgName:
			org, named = t.Value, true
		case envelope.TagSpaceName:
			space, named = t.Value, true
		case envelope.TagAppName:
			app, named = t.Value, true
		case envelope.TagSourceType:
			sourceType = t.Value
		}
	}

	h.head = append(h.head[:0], ' ')
	if named {
		h.head = append(appendLabel(h.head, org), '.')
		h.head = append(appendLabel(h.head, space), '.')
		h.head = appendLabel(h.head, app)
	} else {
		h.head = append(h.head, '-')
	}
	h.head = append(h.head, ' ')
	n := len(h.head)
	if h.head = appendPrintable(h.head, r.SourceID, maxAppName); len(h.head) == n {
		h.head = append(h.head, '-')
	}
	h.head = append(h.head, " ["...)
	h.sourceType = appendSourceType(h.sourceType[:0], sourceType)

	if f.layout != cloudFoundry {
		h.setDyno()
	} else if len(f.list) > 0 && !f.OmitTags {
		h.element = appendTags(append(h.element, "[tags@47450"...), f.list)
		h.element = append(h.element, ']')
	}
	clear(f.list) // they alias the record
}

// reuse empties b, but gives up a large buffer, so that one odd record does not
// cost memory forever.
func reuse(b []byte) []byte {
	if cap(b) > 2*keepBuffer {
		return nil
	}
	return b[:0]
}
