package ringbuf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A Store with a directory keeps its chunks in files that are mapped into memory,
// so that what was appended is the kernel's when the process is killed, and is
// there when the next one starts. Nothing is written or synced to append: the
// kernel writes the pages when it wants to. In the directory are
//
//	store         what it is, in which life of the machine it was opened last,
//	              and a lock against a second process
//	journal       which rings there are, see journal.go
//	chunk-000000  a header, the metas of its blocks, and they
//
// A block counts as far as the state in its meta says, one word that is stored
// last, with a checksum (CRC-32C) over all of it. So a killed process leaves no
// half record; what a machine that lost power left undone has a wrong checksum.
type dir struct {
	path    string
	store   *os.File
	journal journal
	failed  uint64 // files and entries that could not be written
}

const (
	dirMagic   = "LGRINGS\n"
	dirVersion = 1
	dirOrder   = 0x01020304 // in the byte order of the machine
	storeSize  = 128

	chunkPrefix = "chunk-"
	oldPrefix   = "old-"
	newName     = "new"
	journalName = "journal"
	badSuffix   = ".unusable"
)

// How the last process left the directory.
const (
	stateOpen   = 1 // it is at work, or was killed
	stateClosed = 2 // it has closed the Store, and everything is on the disk
	stateBroken = 3 // it could not write its journal
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openDir makes or opens a directory and locks it. trusted is false if what is in
// it may not be the last that was appended, or not all of it.
func openDir(path string) (d *dir, trusted bool, err error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, false, fmt.Errorf("ringbuf: directory for rings: %w", err)
	}
	name := filepath.Join(path, "store")
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, false, fmt.Errorf("ringbuf: directory for rings: %w", err)
		}
		if len(entries) > 0 {
			return nil, false, fmt.Errorf("ringbuf: %s has files in it (%s), and they are not rings; name a directory that is empty or does not exist", path, entries[0].Name())
		}
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, fmt.Errorf("ringbuf: directory for rings: %w", err)
	}
	d = &dir{path: path, store: f}
	if trusted, err = d.begin(); err != nil {
		f.Close()
		return nil, false, err
	}
	return d, trusted, nil
}

func (d *dir) begin() (trusted bool, err error) {
	if err := lockFile(d.store); errors.Is(err, errors.ErrUnsupported) {
		return false, errors.New("ringbuf: rings cannot be kept in a directory on this system; name none")
	} else if err != nil {
		return false, fmt.Errorf("ringbuf: %s is in use by another process, or cannot be locked (%w); name another directory, or end that process", d.path, err)
	}
	was := make([]byte, storeSize)
	n, _ := d.store.ReadAt(was, 0) // what is missing is looked at
	boot := bootID()
	switch {
	case n == 0: // it is new, or all that a machine that went down has left of it
		_, err := os.Stat(filepath.Join(d.path, journalName))
		trusted = errors.Is(err, fs.ErrNotExist)
	case n < 16 || string(was[:8]) != dirMagic:
		return false, fmt.Errorf("ringbuf: %s is not what a store of rings begins with; move the directory away, or name another one", d.store.Name())
	case binary.NativeEndian.Uint32(was[12:]) != dirOrder || binary.NativeEndian.Uint32(was[8:]) != dirVersion:
		return false, fmt.Errorf("ringbuf: %s was written by another version, or on another kind of machine; move it away, or name another directory", d.path)
	case n < storeSize || binary.NativeEndian.Uint32(was[storeSize-4:]) != crc32.Checksum(was[:storeSize-4], castagnoli):
	default:
		id := strings.TrimRight(string(was[20:storeSize-4]), "\x00")
		state := binary.NativeEndian.Uint32(was[16:])
		trusted = state == stateClosed || state == stateOpen && id == boot && boot != ""
	}
	return trusted, nil
}

// mark notes in which state the directory is.
func (d *dir) mark(state uint32) error {
	b := make([]byte, storeSize)
	copy(b, dirMagic)
	binary.NativeEndian.PutUint32(b[8:], dirVersion)
	binary.NativeEndian.PutUint32(b[12:], dirOrder)
	binary.NativeEndian.PutUint32(b[16:], state)
	copy(b[20:storeSize-4], bootID())
	binary.NativeEndian.PutUint32(b[storeSize-4:], crc32.Checksum(b[:storeSize-4], castagnoli))
	_, err := d.store.WriteAt(b, 0)
	return err
}

func (d *dir) chunkPath(i int) string {
	return filepath.Join(d.path, fmt.Sprintf("%s%06d", chunkPrefix, i))
}

// newChunk makes the file of chunk i, whose blocks are free. It has its name when
// it is complete. Its disk space is set aside at once: a page that finds none when
// it is written would end the process.
func (d *dir) newChunk(i int, bits uint) (_ []byte, err error) {
	size := chunkSize(bits)
	f, err := os.OpenFile(filepath.Join(d.path, newName), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		d.failed++
		return nil, err
	}
	defer f.Close()
	var mem []byte
	if err = allocate(f, size); err == nil {
		mem, err = mapFile(f, size)
	}
	if err == nil {
		header(mem, i, bits)
		for k, c := 0, over(mem, bits); k < len(c.metas); k++ {
			c.metas[k].ring = none
		}
		if err = os.Rename(f.Name(), d.chunkPath(i)); err == nil {
			return mem, nil
		}
		freeMemory(mem)
	}
	os.Remove(f.Name())
	d.failed++
	return nil, err
}

// header writes what a chunk's file begins with: magic, version, log2 of the
// number of its blocks, which chunk it is, and a checksum.
func header(h []byte, i int, bits uint) {
	copy(h, dirMagic)
	binary.NativeEndian.PutUint32(h[8:], dirVersion)
	binary.NativeEndian.PutUint32(h[12:], uint32(bits))
	binary.NativeEndian.PutUint32(h[16:], uint32(i))
	binary.NativeEndian.PutUint32(h[20:], crc32.Checksum(h[:20], castagnoli))
}

// readHeader reads it, from the whole file.
func readHeader(mem []byte) (i int, bits uint, ok bool) {
	var h [chunkHeader]byte
	bits = uint(binary.NativeEndian.Uint32(mem[12:]))
	i = int(binary.NativeEndian.Uint32(mem[16:]))
	header(h[:], i, bits)
	return i, bits, bits <= 20 && string(h[:]) == string(mem[:chunkHeader]) && chunkSize(bits) == len(mem)
}

// removeChunk gives the file of chunk i back.
func (d *dir) removeChunk(i int, mem []byte) {
	freeMemory(mem)
	if os.Remove(d.chunkPath(i)) != nil {
		d.failed++
	}
}

// chunkFiles are the names of files with blocks, and the number of each; -1 is
// that of one whose place is not its own.
func (d *dir) chunkFiles() (names []string, numbers []int, err error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		name, number := e.Name(), -1
		if digits, ok := strings.CutPrefix(name, chunkPrefix); ok {
			if number, err = strconv.Atoi(digits); err != nil || name != filepath.Base(d.chunkPath(number)) {
				continue
			}
		} else if !strings.HasPrefix(name, oldPrefix) || strings.HasSuffix(name, badSuffix) {
			continue
		}
		names, numbers = append(names, name), append(numbers, number)
	}
	return names, numbers, nil
}

// close lets go of the directory. If sync is set, everything is on the disk then.
func (d *dir) close(sync bool) error {
	var errs []error
	if sync {
		names, _, err := d.chunkFiles()
		errs = append(errs, err)
		for _, name := range names {
			errs = append(errs, syncFile(filepath.Join(d.path, name)))
		}
		errs = append(errs, d.journal.sync(), syncFile(d.path))
		if errors.Join(errs...) == nil && !d.journal.broken {
			errs = append(errs, d.mark(stateClosed), d.store.Sync())
		}
	}
	errs = append(errs, d.journal.close(), d.store.Close())
	return errors.Join(errs...)
}

func syncFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// fill makes f size bytes long by writing them.
func fill(f *os.File, size int) error {
	zeros := make([]byte, min(size, 1<<20))
	for size > 0 {
		n, err := f.Write(zeros[:min(size, len(zeros))])
		if err != nil {
			return err
		}
		size -= n
	}
	return nil
}
