package main

import (
	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/drain"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/drains"
	"github.com/cloudfoundry/loggregator/internal/ops"
	"github.com/cloudfoundry/loggregator/transport"
	"github.com/cloudfoundry/loggregator/transport/dropsonde"
	"github.com/cloudfoundry/loggregator/transport/httpapi"
)

// metrics lists the figures of all parts.
func metrics(router *loggregator.Router, server *transport.Server, v1 *dropsonde.Server, handler *httpapi.Handler, set *drain.Set) func(func(ops.Metric)) {
	return func(add func(ops.Metric)) {
		figure := func(name, help string, value float64, labels ...string) {
			add(ops.Metric{Name: name, Help: help, Value: value, Labels: labels})
		}
		r := router.Stats()
		const in = "Records that arrived at the rings, by what became of them."
		for outcome, n := range map[string]uint64{
			"accepted": r.Accepted, "repeated": r.Repeated, "malformed": r.Malformed, "too_large": r.TooLarge,
			"bad_source_id": r.BadSourceID, "mixed_source": r.MixedSource, "no_room": r.NoRoom,
		} {
			figure("records_in_total", in, float64(n), "outcome", outcome)
		}
		for why, n := range r.LostFor {
			figure("records_lost_total", "Records lost before they arrived, as their senders or their numbers tell, by reason.", float64(n), "reason", envelope.Reason(why).String())
		}
		figure("records_marked_total", "Lines added that tell of lost records.", float64(r.Marked))
		const gone = "Records given up by the rings, by reason."
		figure("records_gone_total", gone, float64(r.Evicted), "reason", "budget")
		figure("records_gone_total", gone, float64(r.Expired), "reason", "age")
		figure("records_recovered_total", "Records found in -recent-dir at the start.", float64(r.Recovered))
		figure("recent_dir_errors_total", "Writes to -recent-dir that failed; its files will not be whole.", float64(r.DirErrors))
		figure("records_held", "Records in the rings.", float64(r.Held))
		figure("bytes_held", "Bytes of the records in the rings.", float64(r.Bytes))
		figure("budget_bytes", "Memory that the rings may take.", float64(r.Budget))
		figure("budget_used_bytes", "Memory that the rings take.", float64(r.Used))
		figure("sources", "Sources that have a ring.", float64(r.Sources))
		figure("readers", "Readers of the rings: tails, dumps, drains.", float64(r.Readers))
		figure("records_read_total", "Records handed to readers, each reader counted.", float64(r.Delivered))
		figure("records_missed_total", "Records that readers were told they missed, each reader counted.", float64(r.Missed))

		s := server.Stats()
		figure("ingest_connections", "Connections of senders.", float64(s.Connections))
		figure("ingest_connections_total", "Connections of senders taken.", float64(s.Accepted))
		figure("ingest_bytes_total", "Bytes received.", float64(s.Bytes))
		figure("ingest_batches_total", "Batches received.", float64(s.Batches))
		figure("ingest_datagrams_total", "Datagrams received.", float64(s.Datagrams))
		figure("ingest_datagrams_dropped_total", "Datagrams that the system had no room for.", float64(s.Dropped))
		figure("ingest_limited_total", "Records that were not taken, for -source-rate.", float64(s.Limited))
		for reason, n := range s.Refused {
			figure("ingest_refused_total", "Connections and datagrams given up, by what was wrong with them.", float64(n), "reason", reason)
		}

		d := v1.Stats()
		figure("v1_datagrams_total", "Dropsonde datagrams received.", float64(d.Datagrams))
		figure("v1_datagrams_dropped_total", "Dropsonde datagrams that the system had no room for.", float64(d.Dropped))
		for reason, n := range d.Refused {
			figure("v1_refused_total", "Dropsonde datagrams given up, by what was wrong with them.", float64(n), "reason", reason)
		}

		h := handler.Stats()
		figure("http_readers", "Tails and dumps being served.", float64(h.Readers))
		figure("http_refused_total", "Tails and dumps refused because there were too many.", float64(h.Refused))
		figure("http_stalled_total", "Readers cut off because they took nothing.", float64(h.Stalled))
		figure("http_records_total", "Records sent to tails and dumps.", float64(h.Records))
		figure("http_missed_total", "Records that tails and dumps were told they missed.", float64(h.Missed))

		drains.Metrics(set, add)
	}
}
