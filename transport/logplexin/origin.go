package logplexin

import (
	"strings"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/syslogmsg"
)

// Origin is what is known of who sent a message: what Identify decides by.
type Origin struct {
	App        string // as Authorize says
	DrainToken string // Logplex-Drain-Token
	User       string // of Basic authentication

	// As the message says.
	Hostname string // from Logplex "host", from log-shuttle "shuttle" if it is not told another
	AppName  string // "app", "heroku"; from log-shuttle "token" if it is not told another
	ProcID   string // the dyno: web.1
}

// Identity is whose messages of an origin are by default. The source is App, or
// the drain token, or the first of user, host and program's name that is not what
// senders put there for want of a better one, or "logplex". The dyno web.3 is
// instance 3.
func (o Origin) Identity() (id envelope.Identity, ok bool) {
	id.SourceID = "logplex"
	for _, name := range []string{o.App, o.DrainToken, o.User, o.Hostname, o.AppName} {
		switch name {
		case "", "token", "host", "shuttle", "heroku", "app":
		default:
			id.SourceID = name
			_, id.InstanceID = o.dyno()
			return id, true
		}
	}
	_, id.InstanceID = o.dyno()
	return id, true
}

// dyno is the source type and instance that stand in AppName and ProcID: app and
// web.3 are instance 3 of APP/PROC/WEB, heroku and router are RTR.
func (o Origin) dyno() (sourceType, instance string) {
	name := o.ProcID
	if i := strings.LastIndexByte(name, '.'); i >= 0 && isNumber(name[i+1:]) {
		name, instance = name[:i], name[i+1:]
	}
	switch {
	case o.AppName == "heroku" && name == "router":
		return "RTR", instance
	case o.AppName == "heroku" && name != "":
		return strings.ToUpper(name), instance
	case instance != "" && name != "":
		return "APP/PROC/" + strings.ToUpper(name), instance
	}
	return "APP", instance
}

func isNumber(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// origin is an Origin and what its records have in common; nil if they are left
// out.
type origin struct {
	Origin
	id *syslogmsg.Identity
}

// find does not keep o, which may be a view of memory that is used again.
func (h *Handler) find(o Origin) *origin {
	if known, ok := h.origins.Get(o); ok {
		return known
	}
	o.Hostname, o.AppName, o.ProcID = strings.Clone(o.Hostname), strings.Clone(o.AppName), strings.Clone(o.ProcID)
	identify := h.opts.Identify
	if identify == nil {
		identify = Origin.Identity
	}
	known := &origin{Origin: o}
	if id, ok := identify(o); ok {
		sourceType, _ := o.dyno()
		tags := map[string]string{envelope.TagAppName: id.SourceID, envelope.TagSourceType: sourceType}
		if o.Hostname != "" {
			tags[syslogmsg.TagHostname] = o.Hostname
		}
		if o.AppName != "" {
			tags[syslogmsg.TagAppName] = o.AppName
		}
		known.id = syslogmsg.NewIdentity(id, tags)
	}
	h.origins.Put(o, known)
	return known
}
