package emitter

import (
	"context"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// HandlerOptions are what Emitter.Handler can be told.
type HandlerOptions struct {
	// Level is the lowest level that is emitted. Nil means slog.LevelInfo.
	Level slog.Leveler

	// AddSource adds the attribute "source", file and line of the call.
	AddSource bool

	// AsTags makes the message the line's text and each attribute a tag, with
	// the groups it stands in before its key, "group.key". Without AsTags the
	// text is one JSON object with level, msg and the attributes, groups as
	// objects in it. Tags are for attributes with few values, which readers
	// select by; JSON is for everything else.
	AsTags bool
}

// Handler returns a slog.Handler that emits each record as one line: OUT below
// slog.LevelError, ERR from there on, with the level as the tag TagSeverity. The
// line has the record's time, or the time of the call if it has none. What the
// Writer refuses is counted, see [Stats]; Handle returns no error.
func (e *Emitter) Handler(o *HandlerOptions) slog.Handler {
	h := &handler{e: e, level: slog.LevelInfo}
	if o != nil {
		if o.Level != nil {
			h.level = o.Level
		}
		h.asTags, h.source = o.AsTags, o.AddSource
	}
	return h
}

type handler struct {
	e      *Emitter
	level  slog.Leveler
	asTags bool
	source bool

	attrs  []byte   // those of WithAttrs, formatted
	opened int      // how many of the groups are begun in attrs
	groups []string // those of WithGroup
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = slices.Clip(c.attrs)
	w := c.writer(c.attrs, slices.Clip(c.groups))
	for _, a := range attrs {
		w.add(a)
	}
	c.attrs, c.opened = slices.Clip(w.dst), w.opened
	return &c
}

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	c := *h
	c.groups = append(slices.Clip(c.groups), name)
	return &c
}

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	t := envelope.Out
	if r.Level >= slog.LevelError {
		t = envelope.Err
	}
	at := r.Time
	if at.IsZero() {
		at = time.Now()
	}
	b := take()
	b.tags = append(b.tags, h.e.fixed...).AppendTag(TagSeverity, r.Level.String())

	b.groups = append(b.groups, h.groups...)
	if h.asTags {
		w := h.writer(append(b.tags, h.attrs...), b.groups)
		h.record(&w, r)
		b.tags, b.groups = w.dst, w.groups
		h.emit(b, at, t, view(r.Message))
		return nil
	}
	b.text = append(b.text, `{"level":"`...)
	b.text = append(b.text, r.Level.String()...)
	b.text = appendJSONString(append(b.text, `","msg":`...), r.Message)
	w := h.writer(append(b.text, h.attrs...), b.groups)
	h.record(&w, r)
	w.closeTo(0)
	b.text, b.groups = append(w.dst, '}'), w.groups
	h.emit(b, at, t, b.text)
	return nil
}

// record writes the record's attributes after those of the handler.
func (h *handler) record(w *attrWriter, r slog.Record) {
	r.Attrs(func(a slog.Attr) bool {
		w.add(a)
		return true
	})
	if h.source && r.PC != 0 {
		f, _ := runtime.CallersFrames([]uintptr{r.PC}).Next()
		w.closeTo(0)
		w.groups = w.groups[:0]
		w.add(slog.String(slog.SourceKey, f.File+":"+strconv.Itoa(f.Line)))
	}
}

// emit emits the line with the tags of b.
func (h *handler) emit(b *buffer, at time.Time, t envelope.LogType, line []byte) {
	if len(line)+len(b.tags)-len(h.e.fixed) > h.e.maxLine {
		// Too long for one record: in parts, whose tags are those of this one.
		child := h.e.emitter(slices.Clone(envelope.Fixed(b.tags)))
		child.log(at.UnixNano(), 0, t, line)
		b.give()
		return
	}
	b.records = envelope.AppendLog(b.records, b.tags, at.UnixNano(), t, line)
	h.e.send(b.records, 1, 0)
	b.give()
}

func (h *handler) writer(dst []byte, groups []string) attrWriter {
	return attrWriter{asTags: h.asTags, dst: dst, groups: groups, opened: h.opened}
}

// attrWriter appends attributes: as tags, or as members of a JSON object. There,
// a group is begun when something is in it, since an empty one must not be seen.
type attrWriter struct {
	asTags bool
	dst    []byte
	groups []string // where the next attribute stands
	opened int      // how many of them are begun in dst
}

func (w *attrWriter) add(a slog.Attr) {
	a.Value = a.Value.Resolve()
	if a.Equal(slog.Attr{}) {
		return
	}
	if a.Value.Kind() != slog.KindGroup {
		w.write(a)
		return
	}
	if a.Key != "" { // a group without a name is inlined
		w.groups = append(w.groups, a.Key)
	}
	for _, member := range a.Value.Group() {
		w.add(member)
	}
	if a.Key != "" {
		w.groups = w.groups[:len(w.groups)-1]
		w.closeTo(min(w.opened, len(w.groups)))
	}
}

func (w *attrWriter) write(a slog.Attr) {
	if w.asTags {
		key := a.Key
		if len(w.groups) > 0 {
			key = strings.Join(w.groups, ".") + "." + key
		}
		w.dst = envelope.Fixed(w.dst).AppendTag(key, a.Value.String())
		return
	}
	for _, g := range w.groups[w.opened:] {
		w.dst = append(appendJSONKey(w.dst, g), '{')
	}
	w.opened = len(w.groups)
	w.dst = appendJSONValue(appendJSONKey(w.dst, a.Key), a.Value)
}

// closeTo ends groups until n are open.
func (w *attrWriter) closeTo(n int) {
	for ; w.opened > n; w.opened-- {
		w.dst = append(w.dst, '}')
	}
}
