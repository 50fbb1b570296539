package syslogin

import (
	"strings"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/syslogmsg"
)

// Origin is what is known of who sent a message: what Identify decides by.
type Origin struct {
	Remote   string // the sender's IP address; empty for unix sockets
	Hostname string // as the message says; empty where it does not
	AppName  string // the program's name; the tag of RFC 3164
	ProcID   string // the process id, or what stands in its place
}

// SourceTypeSyslog is the source type of messages that do not say another one.
const SourceTypeSyslog = "SYSLOG"

// Identity is whose messages of an origin are by default: the program's name is
// the source id and the application's name, the host the instance. Where a
// message names no program, the host is the source, and where it names no host,
// the sender's address stands for it.
//
// Drains of Cloud Foundry and Loggregator write source type and instance in place
// of the process id, [APP/PROC/WEB/0]; they become that again.
func (o Origin) Identity() (id envelope.Identity, ok bool) {
	host := o.Hostname
	if host == "" {
		host = o.Remote
	}
	if host == "" {
		host = "localhost"
	}
	id = envelope.Identity{SourceID: o.AppName, InstanceID: host}
	if id.SourceID == "" {
		id.SourceID = host
	}
	if _, instance, ok := o.drained(); ok {
		id.InstanceID = instance
	}
	return id, true
}

// drained takes [TYPE/INSTANCE] apart.
func (o Origin) drained() (sourceType, instance string, ok bool) {
	s, ok := strings.CutPrefix(o.ProcID, "[")
	if !ok {
		return "", "", false
	}
	if s, ok = strings.CutSuffix(s, "]"); !ok {
		return "", "", false
	}
	i := strings.LastIndexByte(s, '/')
	if i < 1 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// origin is an Origin and what its records have in common; nil if they are left
// out.
type origin struct {
	Origin
	id *syslogmsg.Identity
}

// find does not keep o, which may be a view of memory that is used again.
func (s *Server) find(o Origin) *origin {
	if known, ok := s.origins.Get(o); ok {
		return known
	}
	o = Origin{strings.Clone(o.Remote), strings.Clone(o.Hostname), strings.Clone(o.AppName), strings.Clone(o.ProcID)}
	identify := s.opts.Identify
	if identify == nil {
		identify = Origin.Identity
	}
	known := &origin{Origin: o}
	if id, ok := identify(o); ok {
		known.id = syslogmsg.NewIdentity(id, o.tags(id.SourceID))
	}
	s.origins.Put(o, known)
	return known
}

// tags are those that yield to what a message says.
func (o Origin) tags(app string) map[string]string {
	sourceType := SourceTypeSyslog
	if t, _, ok := o.drained(); ok {
		sourceType = t
	}
	tags := map[string]string{envelope.TagAppName: app, envelope.TagSourceType: sourceType}
	if o.Hostname != "" {
		tags[syslogmsg.TagHostname] = o.Hostname
	} else if o.Remote != "" {
		tags[syslogmsg.TagHostname] = o.Remote
	}
	if o.AppName != "" {
		tags[syslogmsg.TagAppName] = o.AppName
	}
	return tags
}
