package envelope

import "strconv"

// AppendGapText appends what a person is told of the records that are missing
// just before the batch, in lines of their own; nothing if none are:
//
//	-- 123 lines missed --
//	-- lines missed, their number is not known: the server was started anew --
//
// Such lines begin with "-- " (behind the application's name, if withApp and the
// batch has a record to take it from), so `grep -E -- '-- .*lines? missed'`
// finds them.
func (b Batch) AppendGapText(dst []byte, withApp bool) []byte {
	if b.Missed == 0 && !b.Reset {
		return dst
	}
	var e Envelope
	if withApp && b.Count > 0 {
		e, _, _ = Next(b.Records)
	}
	if b.Reset {
		dst = append(e.appendApp(dst), "-- lines missed, their number is not known: the server was started anew --\n"...)
	}
	if b.Missed > 0 {
		dst = append(appendMissedText(e.appendApp(dst), b.Missed), " --\n"...)
	}
	return dst
}

// AppendGapJSON appends the same as lines of JSON:
//
//	{"type":"missed","missed":123,"source_id":"…"}
//	{"type":"reset","source_id":"…"}
//
// The source is left out where the batch has no record to take it from.
func (b Batch) AppendGapJSON(dst []byte) []byte {
	if b.Missed == 0 && !b.Reset {
		return dst
	}
	var r Route
	if b.Count > 0 {
		if e, _, err := Next(b.Records); err == nil {
			r, _ = e.Route()
		}
	}
	end := func(dst []byte) []byte {
		if len(r.SourceID) > 0 {
			dst = appendJSONString(append(dst, `,"source_id":`...), r.SourceID)
		}
		return append(dst, "}\n"...)
	}
	if b.Reset {
		dst = end(append(dst, `{"type":"reset"`...))
	}
	if b.Missed > 0 {
		dst = end(strconv.AppendUint(append(dst, `{"type":"missed","missed":`...), b.Missed, 10))
	}
	return dst
}

// AppendMissedText appends a line that AppendMissed made in the form of
// AppendGapText, with the reason that it gives:
//
//	-- 123 lines missed: the drain's receiver was away --
//
// ok is false, and nothing is appended, if e is no such line. For other lines
// than errors that is known at once.
func (e Envelope) AppendMissedText(dst []byte, withApp bool) (_ []byte, ok bool) {
	var r Route
	if !skim(e, &r, nil, false) || r.LogType != Err {
		return dst, false
	}
	n, reason, ok := e.Missed()
	if !ok {
		return dst, false
	}
	if withApp {
		dst = e.appendApp(dst)
	}
	dst = appendMissedText(dst, n)
	if reason != "" {
		dst = append(append(dst, ": "...), reason...)
	}
	return append(dst, " --\n"...), true
}

func appendMissedText(dst []byte, n uint64) []byte {
	dst = strconv.AppendUint(append(dst, "-- "...), n, 10)
	if n == 1 {
		return append(dst, " line missed"...)
	}
	return append(dst, " lines missed"...)
}

// appendApp appends the application's name, or what stands for it, and a space;
// nothing for no envelope.
func (e Envelope) appendApp(dst []byte) []byte {
	if len(e) == 0 {
		return dst
	}
	app, _ := e.Tag(TagAppName)
	if len(app) == 0 {
		r, err := e.Route()
		if err != nil {
			return dst
		}
		app = r.SourceID
	}
	return append(append(dst, app...), ' ')
}

// AppendGapRecords appends the same as records in the application's own stream,
// logs of source type LGR, for a protocol that has records and nothing else; see
// AppendMissed. They are of the time given, in nanoseconds since 1970 UTC, and of
// sourceID where the batch has no record to take the source from. It says how many
// records it appended.
func (b Batch) AppendGapRecords(dst []byte, sourceID string, timestamp int64) (_ []byte, count int) {
	if b.Missed == 0 && !b.Reset {
		return dst, 0
	}
	var f Fixed
	if e, _, err := Next(b.Records); err == nil {
		r, _ := e.Route()
		f = f.AppendSource(string(r.SourceID), "")
		for k, v := range e.Tags() {
			if s := string(k); s != TagMissed && s != TagReason && s != TagNumbers { // of a line that tells of others
				f = f.AppendTag(s, string(v))
			}
		}
	} else {
		f = f.AppendSource(sourceID, "")
	}
	if b.Reset {
		dst = AppendLog(dst, f.WithTag(TagSourceType, SourceTypeLGR), timestamp, Err,
			[]byte("lines are missing here, their number is not known: the server was started anew"))
		count++
	}
	if b.Missed > 0 {
		reason := b.Reason.String()
		if b.Reason == ReasonUnknown {
			reason = "this reader was too slow, or away for too long"
		}
		dst = AppendMissed(dst, f, timestamp, b.Missed, reason)
		count++
	}
	return dst, count
}
