package ringbuf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cloudfoundry/loggregator/envelope"
)

// journal is the file that says which rings there are, and of their makers and
// numbers what their records do not. An entry is written when a ring is made or
// removed, when it runs empty, when a maker is new and when its last record goes:
// nothing per record. Each is a length (16 bits), a checksum (32 bits), a kind
// and what belongs to it.
//
// It is written anew when the Store is opened, and when it has become twice as
// long as it was then.
type journal struct {
	path   string
	file   *os.File
	size   int64
	limit  int64
	broken bool // an entry is missing: what it says is not all
	misses int
	buf    []byte
}

// Kinds of entries.
const (
	entryLife   = 'L' // life of the Store, how many rings were made in it
	entryChunk  = 'C' // a chunk: number, whether there is one
	entryRing   = 'R' // a ring, see appendRing
	entryGone   = 'X' // a ring was removed: its index
	entryFloor  = 'F' // a ring's numbers: index, next position, next own number
	entryOrigin = 'O' // a maker: index, stream, begin, next, reach, hidden
)

var journalSlack int64 = 256 << 10 // bytes by which it may grow in any case

// savedRing is what the journal says of a ring.
type savedRing struct {
	index       uint32
	id          envelope.StreamID
	salt        uint64
	was         envelope.StreamID // id in its former life; 0: none
	wasEnd      uint64            // positions before this one are the same in both
	next, local uint64
	key         string
	origins     map[envelope.StreamID]origin
}

// saved is what the journal says.
type saved struct {
	life, made uint64
	rings      map[uint32]*savedRing
	chunks     map[int]bool
}

func appendNumbers(dst []byte, numbers ...uint64) []byte {
	for _, n := range numbers {
		dst = binary.AppendUvarint(dst, n)
	}
	return dst
}

func (r *Ring) appendEntry(dst []byte) []byte {
	dst = appendNumbers(append(dst, entryRing), uint64(r.index), uint64(r.id), r.salt, uint64(r.was), r.wasEnd, r.next, r.local)
	return append(dst, r.key...)
}

func (r *Ring) appendGone(dst []byte) []byte {
	return appendNumbers(append(dst, entryGone), uint64(r.index))
}

func (r *Ring) appendFloor(dst []byte) []byte {
	return appendNumbers(append(dst, entryFloor), uint64(r.index), r.next, r.local)
}

func (r *Ring) appendOrigin(dst []byte, o *origin) []byte {
	return appendNumbers(append(dst, entryOrigin), uint64(r.index), uint64(o.stream), o.begin, o.next, o.reach, o.hidden)
}

// appendEntry frames what add appends.
func appendEntry(dst []byte, add func([]byte) []byte) []byte {
	at := len(dst)
	dst = add(append(dst, 0, 0, 0, 0, 0, 0))
	body := dst[at+6:]
	binary.LittleEndian.PutUint16(dst[at:], uint16(len(body)))
	binary.LittleEndian.PutUint32(dst[at+2:], crc32.Checksum(body, castagnoli))
	return dst
}

// readJournal reads a journal. whole is false if not all of it could be read.
func readJournal(b []byte) (s saved, whole bool) {
	s.rings, s.chunks = make(map[uint32]*savedRing), make(map[int]bool)
	for len(b) > 0 {
		if len(b) < 6 {
			return s, false
		}
		n := int(binary.LittleEndian.Uint16(b))
		if n == 0 || len(b)-6 < n || binary.LittleEndian.Uint32(b[2:]) != crc32.Checksum(b[6:6+n], castagnoli) {
			return s, false
		}
		if !s.entry(b[6], b[7:6+n]) {
			return s, false
		}
		b = b[6+n:]
	}
	return s, true
}

func (s *saved) entry(kind byte, b []byte) bool {
	ok := true
	number := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			ok, n = false, len(b)
		}
		b = b[n:]
		return v
	}
	if kind == entryLife {
		s.life, s.made = number(), number()
		return ok
	}
	index := number()
	if index >= 1<<25 {
		return false
	}
	if kind == entryChunk {
		if delete(s.chunks, int(index)); number() != 0 {
			s.chunks[int(index)] = true
		}
		return ok
	}
	r := s.rings[uint32(index)]
	if kind == entryRing {
		r = &savedRing{index: uint32(index), id: envelope.StreamID(number()), salt: number()}
		r.was, r.wasEnd = envelope.StreamID(number()), number()
		r.next, r.local = number(), number()
		r.key = string(b)
		r.origins = make(map[envelope.StreamID]origin)
		if ok = ok && len(b) <= MaxKey && r.next < 1<<62 && r.id != 0 && r.next > 0 && r.local > 0; ok {
			s.rings[r.index] = r
			if uint64(r.id)&^(1<<24-1) == s.life {
				s.made = max(s.made, uint64(r.id)&(1<<24-1))
			}
		}
		return ok
	}
	if r == nil {
		return false
	}
	switch kind {
	case entryGone:
		delete(s.rings, r.index)
	case entryFloor:
		r.next, r.local = max(r.next, number()), max(r.local, number())
	case entryOrigin:
		o := origin{stream: envelope.StreamID(number()), begin: number(), next: number(), reach: number(), hidden: number(), saved: true}
		if ok && o.stream != 0 {
			r.origins[o.stream] = o
		}
	default:
		return false
	}
	return ok
}

// load reads what is in the directory's journal.
func (j *journal) load(dir string) (s saved, whole bool, err error) {
	j.path = filepath.Join(dir, journalName)
	b, err := os.ReadFile(j.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return saved{}, false, err
	}
	s, whole = readJournal(b)
	return s, whole, nil
}

// write adds entries. It is told by broken if it could not.
func (j *journal) write(entries []byte) bool {
	if j.broken {
		return false
	}
	n, err := j.file.Write(entries)
	if err == nil {
		j.size += int64(n)
		return true
	}
	j.broken = true
	return false
}

// replace writes the journal anew, beside the old one until it is complete.
func (j *journal) replace(entries []byte) error {
	f, err := os.OpenFile(j.path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = bytes.NewReader(entries).WriteTo(f); err == nil {
		err = os.Rename(f.Name(), j.path)
	}
	if err != nil {
		f.Close()
		os.Remove(f.Name())
		return err
	}
	if j.file != nil {
		j.file.Close()
	}
	j.file, j.broken = f, false
	j.size = int64(len(entries))
	j.limit = 2*j.size + journalSlack
	return nil
}

func (j *journal) sync() error {
	if j.file == nil {
		return nil
	}
	return j.file.Sync()
}

func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	f := j.file
	j.file = nil
	return f.Close()
}
