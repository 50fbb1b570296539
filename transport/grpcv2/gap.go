package grpcv2

import "github.com/cloudfoundry/loggregator/envelope"

// fixedOf is what the maker of e says in all of its records, for a line that
// tells of those that are missing.
func fixedOf(e envelope.Envelope, r *envelope.Route) envelope.Fixed {
	f := envelope.Fixed(nil).AppendSource(string(r.SourceID), string(r.InstanceID))
	for k, v := range e.Tags() {
		f = f.AppendTag(string(k), string(v))
	}
	return f
}

// appendReset appends the line that tells of missing records whose number nobody
// knows.
func appendReset(dst []byte, f envelope.Fixed, timestamp int64) []byte {
	f = f.WithTag(envelope.TagSourceType, envelope.SourceTypeLGR)
	return envelope.AppendLog(dst, f, timestamp, envelope.Err, []byte("lines are missing here, their number is not known: the server was started anew"))
}
