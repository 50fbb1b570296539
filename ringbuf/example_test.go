package ringbuf_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"runtime"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/ringbuf"
)

// say makes a batch of log lines.
func say(lines ...string) envelope.Batch {
	fixed := envelope.Identity{SourceID: "shop"}.Encode()
	b := envelope.Batch{Count: len(lines)}
	for _, line := range lines {
		b.Records = envelope.AppendLog(b.Records, fixed, 0, envelope.Out, []byte(line))
	}
	return b
}

func Example() {
	store, err := ringbuf.New(nil) // 256 MiB, an hour
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	ring, err := store.NewRing("shop", nil)
	if err != nil {
		log.Fatal(err)
	}
	ring.Append(say("order 17", "order 18"), nil)

	at := ring.Reader(0) // from the oldest record on
	buf := make([]byte, 0, 64<<10)
	for b := at.Read(buf); b.Count > 0; b = at.Read(buf) {
		for e := range b.All() {
			fmt.Printf("%s\n", e.Payload())
		}
	}
	fmt.Println("read on at", at.Position())
	// Output:
	// order 17
	// order 18
	// read on at 3
}

// A reader that falls behind what the budget keeps is told how much it missed.
func ExampleReader() {
	store, err := ringbuf.New(&ringbuf.Options{Budget: ringbuf.MinBudget})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	ring, _ := store.NewRing("flood", nil)
	at := ring.Reader(0)
	for i := range 100_000 {
		ring.Append(say(fmt.Sprint("line ", i)), nil)
	}
	read, missed := uint64(0), uint64(0)
	buf := make([]byte, 0, 64<<10)
	for b := at.Read(buf); b.Count > 0; b = at.Read(buf) {
		read += uint64(b.Count)
		missed += b.Missed
	}
	fmt.Println(missed > 0, read+missed)
	// Output: true 100000
}

// What a sender repeats after a broken connection is recognised by the numbers
// that it gave its records, and what it left out is counted.
func ExampleRing_Append() {
	store, err := ringbuf.New(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	ring, _ := store.NewRing("shop", nil)
	numbered := func(first uint64, lines ...string) envelope.Batch {
		b := say(lines...)
		b.Stream, b.First, b.Next = 0x5eed, first, first+uint64(b.Count)
		return b
	}
	for _, b := range []envelope.Batch{
		numbered(1, "one", "two"),
		numbered(2, "two", "three"), // two had arrived
		numbered(7, "seven"),        // four, five and six had not
	} {
		done := ring.Append(b, nil)
		fmt.Printf("accepted %d, repeated %d, lost %d\n", done.Accepted, done.Repeated, done.Lost)
	}
	// Output:
	// accepted 2, repeated 0, lost 0
	// accepted 1, repeated 1, lost 0
	// accepted 1, repeated 0, lost 3
}

// With a directory, rings outlive their process.
func ExampleStore_Rings() {
	if runtime.GOOS == "windows" {
		fmt.Println("shop: 1 to 3")
		return
	}
	tmp, err := os.MkdirTemp("", "rings")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	o := &ringbuf.Options{Budget: ringbuf.MinBudget, Dir: filepath.Join(tmp, "rings")}

	store, err := ringbuf.New(o)
	if err != nil {
		log.Fatal(err)
	}
	ring, _ := store.NewRing("shop", nil)
	ring.Append(say("order 17", "order 18"), nil)
	store.Close()

	if store, err = ringbuf.New(o); err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	for ring := range store.Rings() {
		first, next := ring.Bounds()
		fmt.Printf("%s: %d to %d\n", ring.Key(), first, next)
	}
	// Output: shop: 1 to 3
}
