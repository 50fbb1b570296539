package access

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/cloudfoundry/loggregator/envelope"
)

// audit writes one decision down. A token is never in it.
func (g *Gate) audit(ctx context.Context, user string, sel []envelope.Selector, pass *Pass, err error) {
	if g.opt.Audit == nil {
		return
	}
	peer, _ := ctx.Value(peerKey{}).(string)
	attrs := []slog.Attr{
		slog.String("decision", decision(err)),
		slog.String("user", user),
		slog.String("peer", peer),
		slog.String("asked", describe(sel)),
	}
	if pass != nil {
		attrs = append(attrs, slog.String("granted", describe(pass.grant.Select)))
		if !pass.grant.Expires.IsZero() {
			attrs = append(attrs, slog.Time("expires", pass.grant.Expires))
		}
	}
	level := slog.LevelInfo
	if err != nil {
		level = slog.LevelWarn
		attrs = append(attrs, slog.String("reason", strings.ReplaceAll(err.Error(), "\n", ": ")))
	}
	g.opt.Audit.LogAttrs(ctx, level, "read access", attrs...)
}

// auditEnd writes down that a reader was ended.
func (g *Gate) auditEnd(user string, why error) {
	if g.opt.Audit != nil {
		g.opt.Audit.Info("read access", "decision", "ended", "user", user, "reason", why.Error())
	}
}

func decision(err error) string {
	switch {
	case err == nil:
		return "granted"
	case errors.Is(err, ErrToken):
		return "bad token"
	case errors.Is(err, ErrDenied):
		return "denied"
	case errors.Is(err, ErrBusy):
		return "busy"
	}
	return "unavailable"
}

// described is how many selectors a line of the audit names.
const described = 10

// describe is selectors as text of bounded length.
func describe(sel []envelope.Selector) string {
	var b strings.Builder
	for i, s := range sel {
		if i == described {
			b.WriteString(" …")
			break
		}
		if i > 0 {
			b.WriteString(" or ")
		}
		start := b.Len()
		for _, f := range [...]struct{ what, value string }{
			{"source_id", s.SourceID}, {"app", s.App}, {"space", s.Space}, {"org", s.Org},
		} {
			if f.value == "" {
				continue
			}
			if b.Len() > start {
				b.WriteByte(' ')
			}
			b.WriteString(f.what)
			b.WriteByte('=')
			if len(f.value) > 64 {
				f.value = f.value[:64] + "…"
			}
			b.WriteString(strings.ToValidUTF8(f.value, "\ufffd"))
		}
		if b.Len() == start {
			b.WriteString("everything")
		}
	}
	return b.String()
}
