package wsout

import (
	"bytes"
	"testing"

	"github.com/cloudfoundry/loggregator/internal/outbuf"
)

func TestFrames(t *testing.T) {
	for _, tt := range []struct {
		n    int
		head []byte
	}{
		{0, []byte{0x82, 0}}, {125, []byte{0x82, 125}}, {126, []byte{0x82, 126, 0, 126}},
		{65535, []byte{0x82, 126, 0xff, 0xff}}, {65536, []byte{0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0}},
	} {
		if got := AppendFrame(nil, tt.n); !bytes.Equal(got, tt.head) {
			t.Errorf("%d: %x, want %x", tt.n, got, tt.head)
		}
	}
}

func TestAppendAllocates(t *testing.T) {
	out := outbuf.New(func([]byte) error { return nil })
	defer out.Close()
	c := &Conn{wire: &wire{out: out}}
	message := make([]byte, 10_000)
	// A goroutine now and then.
	if n := testing.AllocsPerRun(200, func() {
		var frame [10]byte
		c.Append(AppendFrame(frame[:0], len(message)), message)
	}); n > 5 {
		t.Errorf("%.0f allocations", n)
	}
}
