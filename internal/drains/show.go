package drains

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/cloudfoundry/loggregator/drain"
	"github.com/cloudfoundry/loggregator/internal/ops"
)

// Metrics adds the figures of the drains. They are told apart by what they
// follow, by their host, and by a number, as two may agree in all else; how many
// there can be is the operator's choice. A nil Set has none.
func Metrics(set *drain.Set, add func(ops.Metric)) {
	if set == nil {
		return
	}
	figure := func(name, help string, value float64, labels ...string) {
		add(ops.Metric{Name: name, Help: help, Value: value, Labels: labels})
	}
	now := time.Now()
	for i, d := range set.Status() {
		labels := []string{"number", strconv.Itoa(i), "drain", d.URL, "source_id", d.SourceID, "app", d.App, "space", d.Space, "org", d.Org}
		with := func(more ...string) []string { return append(labels[:len(labels):len(labels)], more...) }
		const of = "Records of a drain, by what became of them."
		for outcome, n := range map[string]uint64{"delivered": d.Delivered, "missed": d.Missed, "filtered": d.Filtered, "refused": d.Refused} {
			figure("drain_records_total", of, float64(n), with("outcome", outcome)...)
		}
		figure("drain_accepted_total", "Records that a drain was given.", float64(d.Accepted), labels...)
		figure("drain_resent_total", "Records that a drain may have delivered twice.", float64(d.Resent), labels...)
		figure("drain_shortened_total", "Messages that a limit did not let say all.", float64(d.Shortened), labels...)
		figure("drain_bytes_total", "Bytes that a drain sent.", float64(d.Bytes), labels...)
		figure("drain_pending", "Records a drain has read and not delivered.", float64(d.Pending), labels...)
		if d.Behind != nil {
			figure("drain_lag_records", "Records that are held for a drain and not delivered, where the source can tell.", float64(*d.Behind), labels...)
		}
		figure("drain_lag_seconds", "Age of the oldest record pending.", d.Lag.Seconds(), labels...)
		figure("drain_connects_total", "Connections a drain made.", float64(d.Connects), labels...)
		figure("drain_failures_total", "Connections that failed or broke, and requests that were not accepted.", float64(d.Failures), labels...)
		if !d.LastSent.IsZero() {
			figure("drain_last_success_timestamp_seconds", "When a drain's receiver last took something.", float64(d.LastSent.UnixMilli())/1000, labels...)
		}
		if !d.Expires.IsZero() {
			figure("drain_certificate_expiry_seconds", "Until the first of the certificates in use ends.", d.Expires.Sub(now).Seconds(), labels...)
		}
		figure("drain_state", "1 for what a drain is doing; cause is that of its last failure.", 1, with("state", string(d.State), "cause", string(d.Cause))...)
	}
	if st := set.Sharing(); st != nil {
		group := []string{"group", st.Group}
		figure("drain_group_owned", "Drains of the group that this process has.", float64(st.Owned), group...)
		figure("drain_group_drains", "Drains of the group, as far as this process knows.", float64(st.Drains), group...)
		figure("drain_group_takeovers_total", "Selections taken over from a process that did not give them back.", float64(st.Takeovers), group...)
		figure("drain_group_handovers_total", "Selections taken over from a process that gave them back.", float64(st.Handovers), group...)
		figure("drain_group_lease_age_seconds", "Since the lease was renewed at the server that was heard longest ago; after 3 s nothing of that server's is sent.", st.LeaseAge.Seconds(), group...)
		for _, server := range st.Servers {
			figure("drain_group_members", "Processes of the group that live, as a server knows.", float64(server.Members), "group", st.Group, "server", server.Server)
		}
	}
	for _, p := range set.Providers() {
		figure("drain_bindings", "Bindings that a provider names.", float64(p.Bindings), "provider", p.Name)
		figure("drain_bindings_unusable", "Bindings that cannot be used.", float64(p.Unusable), "provider", p.Name)
		figure("drain_bindings_kept", "Bindings that the last answer did not name and that stay until it is sure that they are gone.", float64(p.Kept), "provider", p.Name)
		failing := 0.0
		if p.Error != "" {
			failing = 1
		}
		figure("drain_provider_failing", "1 while a provider of bindings gives none.", failing, "provider", p.Name)
	}
}

// Handler shows every drain and provider as JSON.
func Handler(set *drain.Set) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		status := struct {
			Drains    []shown                `json:"drains"`
			Providers []drain.ProviderStatus `json:"providers"`
			Group     *drain.SharingStats    `json:"group,omitempty"`
			Error     string                 `json:"error,omitempty"`
		}{Drains: []shown{}, Providers: []drain.ProviderStatus{}}
		if set != nil {
			for _, st := range set.Status() {
				status.Drains = append(status.Drains, shown{st, st.Pending, st.Lag.Seconds()})
			}
			status.Providers = append(status.Providers, set.Providers()...)
			status.Group = set.Sharing()
			if err := set.Err(); err != nil {
				status.Error = err.Error()
			}
		}
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.Encode(status)
	})
}

// shown is a drain's state in the words that people look for.
type shown struct {
	drain.Status
	Held       uint64  `json:"held"` // read by the drain, and neither delivered nor given up
	LagSeconds float64 `json:"lag_seconds"`
}
