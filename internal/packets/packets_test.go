package packets

import (
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// taker keeps what a Sockets hands it.
type taker struct {
	from []string
	got  []string
	cut  int
	lost uint64
	last string // what ends the test when it has arrived
	done chan struct{}
}

func (k *taker) Take(r *Reader, n int) {
	for i := range n {
		d, cut := r.Datagram(i)
		k.got = append(k.got, string(d))
		k.from = append(k.from, r.From(i).String())
		if cut {
			k.cut++
		}
		if k.last != "" && string(d) == k.last {
			close(k.done)
		}
	}
}

func (k *taker) Lost(n uint64) { k.lost += n }

func sockets(t *testing.T) map[string]func() (net.PacketConn, net.Conn) {
	return map[string]func() (net.PacketConn, net.Conn){
		"udp4": func() (net.PacketConn, net.Conn) { return udp(t, "127.0.0.1:0") },
		"udp6": func() (net.PacketConn, net.Conn) { return udp(t, "[::1]:0") },
		"unixgram": func() (net.PacketConn, net.Conn) {
			if runtime.GOOS == "windows" {
				t.Skip("no unix datagrams here")
			}
			path := filepath.Join(t.TempDir(), "socket")
			pc, err := net.ListenPacket("unixgram", path)
			if err != nil {
				t.Fatal(err)
			}
			c, err := net.Dial("unixgram", path)
			if err != nil {
				t.Fatal(err)
			}
			return pc, c
		},
	}
}

func udp(t *testing.T, address string) (net.PacketConn, net.Conn) {
	pc, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Skip(err)
	}
	c, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	return pc, c
}

// TestServe: what is sent comes in order, whole or cut and told so, with its
// sender's address, and Stop ends it.
func TestServe(t *testing.T) {
	for name, open := range sockets(t) {
		t.Run(name, func(t *testing.T) {
			pc, c := open()
			defer c.Close()
			const total = 100
			k := &taker{last: "end", done: make(chan struct{})}
			var s Sockets
			result := make(chan error, 1)
			go func() { result <- s.Serve(pc, 16, k) }()
			for i := range total {
				fmt.Fprintf(c, "datagram %d", i)
			}
			c.Write([]byte("this one is too long by far"))
			c.Write(nil)
			c.Write([]byte("end"))
			<-k.done
			s.Stop(time.Now())
			if err := <-result; err != net.ErrClosed {
				t.Error(err)
			}
			s.Wait()
			if k.lost != 0 || k.cut != 1 {
				t.Errorf("%d lost, %d cut", k.lost, k.cut)
			}
			empty := 0
			for i, d := range k.got {
				switch {
				case i < total && d != fmt.Sprintf("datagram %d", i):
					t.Fatalf("datagram %d is %q", i, d)
				case i == total && d != "this one is too ":
					t.Errorf("cut: %q", d)
				case d == "":
					empty++
				}
				if want := c.LocalAddr().String(); name != "unixgram" && k.from[i] != want {
					t.Fatalf("from %s, want %s", k.from[i], want)
				}
			}
			if len(k.got) != total+2+empty {
				t.Errorf("%d datagrams", len(k.got))
			}
			if err := s.Serve(pc, 16, k); err != net.ErrClosed {
				t.Errorf("after Stop: %v", err)
			}
		})
	}
}

// TestDropped: what the system had no room for is counted: sent = read + lost.
func TestDropped(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("this system does not tell")
	}
	pc, c := udp(t, "127.0.0.1:0")
	defer c.Close()
	r := NewReader(pc, 2048)
	pc.(*net.UDPConn).SetReadBuffer(8 << 10)
	const total = 500
	for range total {
		if _, err := c.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	read := 0
	for lost := uint64(0); uint64(read)+lost < total; lost += r.Dropped() {
		n, err := r.Read()
		if err != nil {
			t.Fatal(err)
		}
		read += n
		pc.SetReadDeadline(time.Now().Add(5 * time.Second))
	}
	if read == total {
		t.Error("nothing was lost, so nothing is tested")
	}
	pc.Close()
}

func TestReadAllocates(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("one by one here")
	}
	pc, c := udp(t, "127.0.0.1:0")
	defer pc.Close()
	defer c.Close()
	r, hello := NewReader(pc, 2048), []byte("hello")
	if n := testing.AllocsPerRun(100, func() {
		c.Write(hello)
		if _, err := r.Read(); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
