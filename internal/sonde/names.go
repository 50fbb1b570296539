// Package sonde has the names and numbers of v1 envelopes, Loggregator's first
// protocol, and makes them of today's.
package sonde

// The event types of a v1 envelope. Older ones, HttpStart and HttpStop, are
// unknown here as they are to everybody else.
const (
	HTTPStartStop   = 4
	LogMessage      = 5
	ValueMetric     = 6
	CounterEvent    = 7
	Error           = 8
	ContainerMetric = 9
)

// EventNames are their names, as the tag __v1_type has them.
var EventNames = map[int32]string{
	HTTPStartStop: "HttpStartStop", LogMessage: "LogMessage", ValueMetric: "ValueMetric",
	CounterEvent: "CounterEvent", Error: "Error", ContainerMetric: "ContainerMetric",
}

// EventFields are the fields of a v1 envelope that the events of each type are in.
var EventFields = map[int32]int{
	HTTPStartStop: 7, LogMessage: 8, ValueMetric: 9, CounterEvent: 10, Error: 11, ContainerMetric: 12,
}

// The tags of today's envelopes that stand for fields of v1 ones.
const (
	TagOrigin     = "origin"
	TagDeployment = "deployment"
	TagJob        = "job"
	TagIndex      = "index"
	TagIP         = "ip"
	TagType       = "__v1_type"
	TagSourceID   = "source_id"
	TagInstanceID = "instance_id"

	TagSource = "source" // of an Error
	TagCode   = "code"

	TagRequestID     = "request_id" // of an HttpStartStop
	TagPeerType      = "peer_type"
	TagMethod        = "method"
	TagURI           = "uri"
	TagRemoteAddress = "remote_address"
	TagUserAgent     = "user_agent"
	TagStatusCode    = "status_code"
	TagContentLength = "content_length"
	TagRouterID      = "routing_instance_id"
	TagForwarded     = "forwarded"
)

// The metrics of a ContainerMetric, and their units.
const (
	MetricCPU         = "cpu"
	MetricMemory      = "memory"
	MetricDisk        = "disk"
	MetricMemoryQuota = "memory_quota"
	MetricDiskQuota   = "disk_quota"
	UnitPercentage    = "percentage"
	UnitBytes         = "bytes"
)

// PeerTypes are the names of HttpStartStop's peer types, by their numbers.
var PeerTypes = [...]string{1: "Client", "Server"}

// Methods are the names of HttpStartStop's methods, by their numbers.
var Methods = [...]string{
	1: "GET", "POST", "PUT", "DELETE", "HEAD", "ACL", "BASELINE_CONTROL", "BIND", "CHECKIN", "CHECKOUT",
	"CONNECT", "COPY", "DEBUG", "LABEL", "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL",
	"MKREDIRECTREF", "MKWORKSPACE", "MOVE", "OPTIONS", "ORDERPATCH", "PATCH", "PRI", "PROPFIND", "PROPPATCH",
	"REBIND", "REPORT", "SEARCH", "SHOWMETHOD", "SPACEJUMP", "TEXTSEARCH", "TRACE", "TRACK", "UNBIND",
	"UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION_CONTROL",
}
