package ringbuf

import (
	"sync"

	"golang.org/x/sys/unix"
)

// region is address space in which all chunks of a large arena lie next to each
// other, so that the system can give it memory 2 MiB at a time: the first write
// to 16 MiB then takes 1 ms in place of 6, which is 25 ns a record in place of
// 190.
type region struct {
	mem   []byte
	step  int            // from one chunk to the next
	top   int            // up to here memory was asked for ahead
	ahead sync.WaitGroup // memory being asked for before it is needed
}

// minRegion is the budget from which on up to 4 MiB that are resident before
// they are used do not matter.
const minRegion = 64 << 20

// reserve takes address space for the chunks of a budget and some more. It may
// be refused; then chunks are mapped one by one.
func (g *region) reserve(budget int64, chunk int) {
	if budget < minRegion || budget > 1<<46 {
		return
	}
	page := unix.Getpagesize()
	g.step = (chunk + page - 1) &^ (page - 1)
	size := (int(budget)/g.step + 2) * g.step
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return
	}
	unix.Madvise(mem, unix.MADV_HUGEPAGE) // fails where there are none
	g.mem = mem
}

// chunk returns the memory of chunk i, nil if it is not in the region. That of
// the one after it is asked for meanwhile, if it never was: whoever first writes to 2 MiB would
// otherwise wait 100 µs for them, under the Store's lock.
func (g *region) chunk(i, size int) []byte {
	at := i * g.step
	if g.mem == nil || at+g.step > len(g.mem) {
		return nil
	}
	if next := at + g.step; next > g.top && next+g.step <= len(g.mem) {
		g.top = next
		g.ahead.Go(func() { unix.Madvise(g.mem[next:next+g.step], unix.MADV_POPULATE_WRITE) })
	}
	return g.mem[at : at+size : at+size]
}

// holds reports whether the memory is that of chunk i here.
func (g *region) holds(i int, mem []byte) bool {
	at := i * g.step
	return at < len(g.mem) && &g.mem[at] == &mem[0]
}

// giveBack gives the memory of chunk i back; its address space stays.
func (g *region) giveBack(i int) {
	g.ahead.Wait()
	mem := g.mem[i*g.step : (i+1)*g.step]
	unix.Madvise(mem, unix.MADV_DONTNEED)
	unix.Madvise(mem, unix.MADV_NOHUGEPAGE) // or the system fills the hole again
}

func (g *region) close() {
	g.ahead.Wait()
	if g.mem != nil {
		unix.Munmap(g.mem)
	}
	g.mem = nil
}
