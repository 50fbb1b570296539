package logcache

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"google.golang.org/grpc/codes"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// maxMetas bounds the answers to meta that are put together at a time: each holds
// some hundred bytes for each source that there is.
const maxMetas = 4

const noMeta = "meta is not here: this server does not know what is held"

// metaInfo is what is held of a source.
type metaInfo struct {
	count, expired uint64
	oldest, newest int64
}

// meta lists what the bearer of the pass may know of. A source that is held at
// several places is the sum of them.
func (s *Server) meta(ctx context.Context, pass *access.Pass) (map[string]metaInfo, error) {
	select {
	case s.metas <- struct{}{}:
		defer func() { <-s.metas }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	all := make(map[string]metaInfo)
	for info := range s.opt.Sources.Sources(pass.Select()) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if info.Held == 0 {
			continue
		}
		m, known := all[info.SourceID]
		if !known {
			m.oldest, m.newest = info.Oldest, info.Newest
		}
		m.count += info.Held
		m.expired += info.Gone
		m.oldest = min(m.oldest, info.Oldest, info.Newest) // what came first need not be the oldest
		m.newest = max(m.newest, info.Oldest, info.Newest)
		all[info.SourceID] = m
	}
	s.listed.Add(1)
	return all, nil
}

func (s *Server) serveMeta(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	if s.opt.Sources == nil {
		s.unimplemented.Add(1)
		refuse(w, http.StatusNotImplemented, codes.Unimplemented, noMeta)
		return
	}
	pass, err := s.gate.Admit(ctx, access.BearerToken(r), envelope.Everything)
	if err != nil {
		s.refuseFor(w, err)
		return
	}
	defer pass.Close()
	all, err := s.meta(ctx, pass)
	if err != nil {
		s.refuseFor(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	out := s.newWriter(ctx, w, nil)
	defer out.close()
	out.b = append(out.b, `{"meta":{`...)
	for i, id := range slices.Sorted(maps.Keys(all)) {
		if i > 0 {
			out.b = append(out.b, ',')
		}
		name, _ := json.Marshal(id)
		m := all[id]
		out.b = append(out.b, name...)
		out.b = strconv.AppendUint(append(out.b, `:{"count":"`...), m.count, 10)
		out.b = strconv.AppendUint(append(out.b, `","expired":"`...), m.expired, 10)
		out.b = strconv.AppendInt(append(out.b, `","oldest_timestamp":"`...), m.oldest, 10)
		out.b = strconv.AppendInt(append(out.b, `","newest_timestamp":"`...), m.newest, 10)
		if out.b = append(out.b, `"}`...); !out.more() {
			return
		}
	}
	out.b = append(out.b, "}}\n"...)
}
