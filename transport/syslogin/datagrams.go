package syslogin

import (
	"net"
	"net/netip"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/packets"
)

// maxDatagram is more than UDP can carry.
const maxDatagram = 64 << 10

// datagrams takes those of one socket.
type datagrams struct {
	s    *Server
	in   intake
	last netip.Addr // whose text in.remote is
}

func newDatagrams(s *Server, pc net.PacketConn) *datagrams {
	_, local := pc.LocalAddr().(*net.UnixAddr)
	return &datagrams{s: s, in: newIntake(s, local, "")}
}

// Take implements packets.Taker.
func (d *datagrams) Take(r *packets.Reader, n int) {
	d.in.begin()
	size := 0
	for i := range n {
		b, cut := r.Datagram(i)
		size += len(b)
		if from := r.From(i).Addr().Unmap(); from != d.last {
			d.last, d.in.remote = from, ""
			if from.IsValid() {
				d.in.remote = from.String()
			}
		}
		if b = trimEnd(b); len(b) > 0 {
			d.in.message(b)
		}
		if cut {
			d.s.counts.truncated.Add(1)
		}
	}
	d.s.counts.datagrams.Add(uint64(n))
	d.s.counts.bytes.Add(uint64(size))
	d.in.end()
	if d.in.err != nil && d.s.ctx.Err() == nil {
		d.s.refused.Add(refusedWriter, "datagrams", "records not taken: "+d.in.err.Error())
	}
	d.in.err = nil
}

// Lost implements packets.Taker: whoever reads the end is told as well.
func (d *datagrams) Lost(n uint64) {
	d.s.counts.overflow.Add(n)
	d.s.w.WriteBatch(d.s.ctx, envelope.Batch{Missed: n, Reason: envelope.ReasonDatagram})
}
