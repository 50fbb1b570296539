package envelope

import (
	"encoding/binary"
	"iter"

	"google.golang.org/protobuf/encoding/protowire"
)

// KeyRecord begins every record of a batch: field 1 of EnvelopeBatch.
const KeyRecord = 1<<3 | 2

// StreamID names whoever numbered a run of records: one life of one ring. It is
// random, so a number is never taken for that of an earlier life. Zero is
// nobody: records without numbers, which cannot be acknowledged or resumed.
type StreamID uint64

// Batch is a run of records of one source, in order. Records is an encoded
// EnvelopeBatch: any run of ring memory is one.
//
// A record keeps the number it was given where it was born on its way through
// all later hops (Stream, First), so that every hop recognises a gap and a
// repeat. Ring and Position are where it was read from; a reader that wants to
// read on later keeps both kinds of numbers, see [Cursor.Advance].
//
// The memory is borrowed, see [Writer] and [Source].
type Batch struct {
	Records []byte
	Count   int // records in Records

	Stream StreamID // who numbered the records
	First  uint64   // number of the first
	Next   uint64   // number after the last one this batch covers: First+Count, or more where a query left records out

	// Missed records of the source were lost to this reader just before First.
	Missed uint64
	// Reason is why; of a batch without Missed, why numbers before First are
	// missing, if that is known.
	Reason Reason
	// From is the number below which all has been accounted for by whoever gives
	// this batch: it was given before, or told as missed, or went to another
	// reader. Zero: nothing is known of that; what is missing by the numbers is for
	// the taker to find out.
	From uint64
	// Begin, of a maker whose records come for the first time, is the number of the
	// first record that the giver ever took from it, or was told of as lost.
	Begin uint64
	// Told of the numbers missing before First are told by the record just before
	// this batch.
	Told uint64
	// Reset means that the reader's cursor belongs to another life of what it
	// reads, and that how many records it lost by that cannot be known.
	Reset bool

	Ring     StreamID // the ring the records were read from
	Position uint64   // where in that ring to read on

	// Now is the time of day in Unix nanoseconds, if whoever gives the batch has
	// just looked: then the taker need not, which is a fifth of what a log call
	// costs. It does not travel. Zero: nobody looked.
	Now int64
}

// Of makes a batch of records that nobody numbered, as a sender does that wants
// no acknowledgements. It counts them, and fails with ErrMalformed if they are
// not a run of whole records.
func Of(records []byte) (Batch, error) {
	b := Batch{Records: records}
	for rest := records; len(rest) > 0; b.Count++ {
		var err error
		if _, rest, err = Next(rest); err != nil {
			return Batch{}, err
		}
	}
	return b, nil
}

// Next takes the first envelope off a run of records.
func Next(records []byte) (e Envelope, rest []byte, err error) {
	if len(records) == 0 || records[0] != KeyRecord {
		return nil, nil, ErrMalformed
	}
	start, end := span(records, 1)
	if end < 0 {
		return nil, nil, ErrMalformed
	}
	return records[start:end], records[end:], nil
}

// All yields the envelopes of the batch. The error, if any, comes last, with a
// nil envelope: what follows a record that does not parse cannot be found.
func (b Batch) All() iter.Seq2[Envelope, error] {
	return func(yield func(Envelope, error) bool) {
		for rest := b.Records; len(rest) > 0; {
			e, tail, err := Next(rest)
			if !yield(e, err) || err != nil {
				return
			}
			rest = tail
		}
	}
}

// AppendRecord appends an envelope as one record of a batch.
func AppendRecord(dst []byte, e Envelope) []byte {
	dst = append(dst, KeyRecord)
	dst = binary.AppendUvarint(dst, uint64(len(e)))
	return append(dst, e...)
}

// The fields of EnvelopeBatch that are ours.
const (
	fieldStream   = 101
	fieldFirst    = 102
	fieldNext     = 103
	fieldMissed   = 104
	fieldRing     = 105
	fieldPosition = 106
	fieldReset    = 107
	fieldFrom     = 108
	fieldReason   = 109
	fieldBegin    = 110
	fieldTold     = 111
)

// MaxBatchHeader bounds what AppendHeader appends, in bytes.
const MaxBatchHeader = 2*(2+8) + 7*(2+10) + 2*(2+1)

// AppendHeader appends the fields of the encoded EnvelopeBatch that stand before
// the records: header and Records, written one after the other, are the message.
// A batch that nobody numbered has an empty header.
func (b Batch) AppendHeader(dst []byte) []byte {
	if b.Stream != 0 {
		dst = protowire.AppendTag(dst, fieldStream, protowire.Fixed64Type)
		dst = protowire.AppendFixed64(dst, uint64(b.Stream))
		dst = appendNumber(dst, fieldFirst, b.First)
		if b.Next != b.First+uint64(b.Count) {
			dst = appendNumber(dst, fieldNext, b.Next)
		}
		if b.From != 0 {
			dst = appendNumber(dst, fieldFrom, b.From)
		}
		if b.Begin != 0 {
			dst = appendNumber(dst, fieldBegin, b.Begin)
		}
		if b.Told != 0 {
			dst = appendNumber(dst, fieldTold, b.Told)
		}
	}
	if b.Missed != 0 {
		dst = appendNumber(dst, fieldMissed, b.Missed)
	}
	if b.Reason != 0 {
		dst = appendNumber(dst, fieldReason, uint64(b.Reason))
	}
	if b.Ring != 0 && (b.Ring != b.Stream || b.Position != b.Next) {
		dst = protowire.AppendTag(dst, fieldRing, protowire.Fixed64Type)
		dst = protowire.AppendFixed64(dst, uint64(b.Ring))
		dst = appendNumber(dst, fieldPosition, b.Position)
	}
	if b.Reset {
		dst = appendNumber(dst, fieldReset, 1)
	}
	return dst
}

func appendNumber(dst []byte, num protowire.Number, v uint64) []byte {
	dst = protowire.AppendTag(dst, num, protowire.VarintType)
	return protowire.AppendVarint(dst, v)
}

// ParseBatch reads an encoded EnvelopeBatch, ours or a foreign one, in one walk
// over its records, whose envelopes it does not look into. The batch aliases
// msg; where other fields stand between the records, these are moved together
// within msg.
func ParseBatch(msg []byte) (Batch, error) {
	var b Batch
	var ringSet, positionSet, nextSet bool
	start, end := 0, 0 // the records found so far: msg[start:end]
	for i := 0; i < len(msg); {
		if msg[i] == KeyRecord {
			_, stop := span(msg, i+1)
			if stop < 0 {
				return Batch{}, ErrMalformed
			}
			switch {
			case start == end:
				start, end = i, stop
			case end == i:
				end = stop
			default:
				end += copy(msg[end:], msg[i:stop])
			}
			b.Count++
			i = stop
			continue
		}
		num, typ, n := consumeTag(msg[i:])
		if n < 0 {
			return Batch{}, ErrMalformed
		}
		l := protowire.ConsumeFieldValue(num, typ, msg[i+n:])
		if l < 0 {
			return Batch{}, ErrMalformed
		}
		v := msg[i+n : i+n+l]
		switch typ {
		case protowire.VarintType:
			x, _ := protowire.ConsumeVarint(v)
			switch num {
			case fieldFirst:
				b.First = x
			case fieldNext:
				b.Next, nextSet = x, true
			case fieldMissed:
				b.Missed = x
			case fieldPosition:
				b.Position, positionSet = x, true
			case fieldReset:
				b.Reset = x != 0
			case fieldFrom:
				b.From = x
			case fieldBegin:
				b.Begin = x
			case fieldTold:
				b.Told = x
			case fieldReason:
				if b.Reason = ReasonUnknown; uint32(x) < uint32(Reasons) { // a newer sender's is unknown here
					b.Reason = Reason(x)
				}
			}
		case protowire.Fixed64Type:
			x := StreamID(binary.LittleEndian.Uint64(v))
			switch num {
			case fieldStream:
				b.Stream = x
			case fieldRing:
				b.Ring, ringSet = x, x != 0 // nobody is no ring
			}
		case protowire.BytesType:
			if num == 1 { // a record whose key was written longer than needed
				e, _ := protowire.ConsumeBytes(v)
				record := AppendRecord(nil, e)
				if start == end {
					start, end = i, i
				}
				end += copy(msg[end:], record)
				b.Count++
			}
		}
		i += n + l
	}
	b.Records = msg[start:end:end]
	if !nextSet {
		b.Next = b.First + uint64(b.Count)
	}
	if !ringSet {
		b.Ring = b.Stream
	}
	if !positionSet {
		b.Position = b.Next
	}
	if b.Stream == 0 {
		b.First, b.Next, b.From, b.Begin, b.Told = 0, 0, 0, 0, 0
		if !ringSet {
			b.Position = 0
		}
	}
	if b.Stream != 0 && (b.Next < b.First || b.Next-b.First < uint64(b.Count)) {
		return Batch{}, ErrMalformed
	}
	return b, nil
}
