package v1api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/sonde"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/internal/outlet"
)

const (
	defaultLimit = 1000
	maxLimit     = 10_000

	// What is dumped has to be gathered first, because its order is not the one in
	// which it is read. maxDump bounds what one takes, in bytes, maxDumps how many
	// gather at a time, while others wait, and maxHeld what all take together that
	// are being written to clients, in bytes.
	maxDump  = 8 << 20
	maxDumps = 16
	maxHeld  = 256 << 20

	// gatherTime is how long a dump may wait and gather. For the whole of it to be
	// written there is the write timeout: noaa gives up after ten seconds.
	gatherTime = 5 * time.Second

	// containerAge is for how long a container's metrics count as its latest.
	containerAge = 2 * time.Minute
)

// serveRecent answers with the last logs of an application, newest first.
func (h *Handler) serveRecent(w http.ResponseWriter, r *http.Request, rd *outlet.Reader, pass *access.Pass, id string) {
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil || limit <= 0 {
		limit = defaultLimit
	}
	h.dump(w, r, rd, pass, envelope.Query{Last: min(limit, maxLimit), MaxBytes: batchSize}, &recent{h: h, app: id})
}

// serveContainers answers with the latest metrics of an application's containers.
func (h *Handler) serveContainers(w http.ResponseWriter, r *http.Request, rd *outlet.Reader, pass *access.Pass, id string) {
	h.dump(w, r, rd, pass, envelope.Query{Since: time.Now().Add(-containerAge), MaxBytes: batchSize},
		&containers{h: h, latest: make(map[string]container)})
}

// gatherer gathers records and makes the v1 envelopes of an answer.
type gatherer interface {
	take(envelope.Batch)
	size() int // bytes that it holds
	each(put func(msg []byte) error) error
}

// dump answers with what g makes of a query.
func (h *Handler) dump(w http.ResponseWriter, r *http.Request, rd *outlet.Reader, pass *access.Pass, q envelope.Query, g gatherer) {
	defer rd.Leave()
	defer pass.Close()
	busy := func() {
		w.Header().Set("Retry-After", "5")
		http.Error(w, "too many such requests at a time; try again later", http.StatusServiceUnavailable)
	}
	err := h.gather(r.Context(), pass, q, g)
	if err == errBusy {
		busy()
		return
	}
	if err != nil {
		http.Error(w, "the logs cannot be read: "+why(err), http.StatusInternalServerError)
		return
	}
	held := int64(g.size())
	defer h.held.Add(-held)
	if h.held.Add(held) > maxHeld {
		busy()
		return
	}
	boundary := rand.Text() + rand.Text()
	w.Header().Set("Content-Type", "multipart/x-protobuf; boundary="+boundary)
	out := outlet.NewResponse(w, h.opt.WriteTimeout)
	rd.OnAbort(out.Abort)
	defer time.AfterFunc(h.opt.WriteTimeout, out.Stall).Stop()
	head, end := []byte("--"+boundary+"\r\n\r\n"), []byte("\r\n")
	err = g.each(func(msg []byte) error { return out.Out.Append(head, msg, end) })
	if err == nil {
		err = out.Out.Append([]byte("--" + boundary + "--\r\n"))
	}
	if sent := out.Close(); sent != nil || err != nil {
		if errors.Is(sent, outlet.ErrStalled) {
			h.stalled.Add(1)
		}
		panic(http.ErrAbortHandler) // what ends in the middle must not look like the end
	}
}

var errBusy = errors.New("too many gather")

// gather lets g take what the query selects.
func (h *Handler) gather(ctx context.Context, pass *access.Pass, q envelope.Query, g gatherer) error {
	ctx, cancel := context.WithTimeout(ctx, gatherTime)
	defer cancel()
	defer context.AfterFunc(h.readers.Context(), cancel)()
	select {
	case h.dumps <- struct{}{}:
		defer func() { <-h.dumps }()
	case <-ctx.Done():
		return errBusy
	}
	for b, err := range pass.Batches(ctx, q) {
		if err != nil {
			return err
		}
		g.take(b)
	}
	return nil
}

// why is what a client may know of an error.
func why(err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "it took longer than 5 seconds"
	case errors.Is(err, access.ErrExpired):
		return access.ErrExpired.Error()
	}
	return "try again later"
}

// recent gathers the last logs, and drops the oldest of more than maxDump bytes.
type recent struct {
	h   *Handler
	app string

	buf    []byte
	logs   []logAt // in the order in which they came
	missed envelope.Batch
	left   uint64 // left out
}

// logAt is a log in the buffer.
type logAt struct {
	timestamp  int64
	start, end int
}

func (d *recent) take(b envelope.Batch) {
	d.h.read(&b, true)
	d.missed.Missed += b.Missed
	for e, err := range b.All() {
		if err != nil {
			return
		}
		r, err := e.Route()
		if err != nil {
			d.h.skipped.Add(1)
			continue
		}
		for len(d.logs) > 0 && len(d.buf)-d.logs[0].start+len(e) > maxDump {
			d.logs = d.logs[1:]
			d.left++
		}
		if len(d.logs) > 0 && d.logs[0].start > maxDump { // half of it is not used
			d.moveDown()
		}
		d.logs = append(d.logs, logAt{r.Timestamp, len(d.buf), len(d.buf) + len(e)})
		d.buf = append(d.buf, e...)
	}
}

func (d *recent) size() int { return cap(d.buf) }

func (d *recent) moveDown() {
	by := d.logs[0].start
	d.buf = append(d.buf[:0], d.buf[by:]...)
	for i := range d.logs {
		d.logs[i].start -= by
		d.logs[i].end -= by
	}
}

func (d *recent) each(put func(msg []byte) error) (err error) {
	var enc sonde.Encoder
	send := func(e envelope.Envelope) {
		made := false
		enc.Each(e, func(event int32, msg []byte) {
			if event != sonde.LogMessage || err != nil { // the client takes each for one
				return
			}
			made = true
			d.h.envelopes.Add(1)
			err = put(msg)
		})
		if !made {
			d.h.skipped.Add(1)
		}
	}
	d.h.skipped.Add(d.left)
	// What is missing is older than all that is there, and so comes last.
	slices.Reverse(d.logs)
	slices.SortStableFunc(d.logs, func(a, b logAt) int { return cmp.Compare(b.timestamp, a.timestamp) })
	oldest := time.Now().UnixNano()
	for _, l := range d.logs {
		send(d.buf[l.start:l.end])
		oldest = l.timestamp
	}
	var gap []byte
	if d.missed.Missed > 0 {
		gap, _ = d.missed.AppendGapRecords(gap, d.app, oldest)
	}
	if d.left > 0 {
		gap = envelope.AppendMissed(gap, envelope.Fixed(nil).AppendSource(d.app, ""), oldest, d.left, "the answer would be larger than 8 MiB")
	}
	for e := range (envelope.Batch{Records: gap}).All() {
		send(e)
	}
	return err
}

// containers gathers the latest metrics of each container.
type containers struct {
	h      *Handler
	enc    sonde.Encoder
	latest map[string]container // by instance id
	bytes  int                  // of those
}

type container struct {
	timestamp int64
	msg       []byte
}

func (d *containers) take(b envelope.Batch) {
	d.h.read(&b, false)
	for e, err := range b.All() {
		if err != nil {
			return
		}
		r, err := e.Route()
		kept := false
		if err == nil {
			d.enc.Each(e, func(event int32, msg []byte) {
				kept = event == sonde.ContainerMetric && d.keep(string(r.InstanceID), r.Timestamp, msg)
			})
		}
		if !kept {
			d.h.skipped.Add(1)
		}
	}
}

func (d *containers) size() int { return d.bytes }

// keep keeps a container's metrics, if they are the latest, and there is room.
func (d *containers) keep(instance string, timestamp int64, msg []byte) bool {
	was, ok := d.latest[instance]
	if ok && was.timestamp > timestamp || d.bytes-len(was.msg)+len(msg) > maxDump {
		return false
	}
	if ok {
		d.h.skipped.Add(1)
	}
	d.bytes += len(msg) - len(was.msg)
	d.latest[instance] = container{timestamp, bytes.Clone(msg)}
	return true
}

func (d *containers) each(put func(msg []byte) error) error {
	instances := make([]string, 0, len(d.latest))
	for id := range d.latest {
		instances = append(instances, id)
	}
	slices.SortFunc(instances, func(a, b string) int { // 2 before 10
		return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
	})
	for _, id := range instances {
		d.h.envelopes.Add(1)
		if err := put(d.latest[id].msg); err != nil {
			return err
		}
	}
	return nil
}
