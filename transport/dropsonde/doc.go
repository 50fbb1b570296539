// Package dropsonde takes in what programs send that link the dropsonde library,
// Loggregator's first protocol: one datagram is one v1 envelope, to UDP port
// 3457 of the same machine by custom. Each becomes an envelope of today.
//
// # What becomes of an envelope
//
//	LogMessage       log, in the stream it names; instance and tag source_type as it says
//	Error            log in OUT; tags source and code
//	ValueMetric      gauge of one value
//	ContainerMetric  gauge of cpu, memory, disk, memory_quota and disk_quota
//	CounterEvent     counter
//	HttpStartStop    timer "http"; tags request_id, peer_type, method, uri, remote_address,
//	                 user_agent, status_code, content_length, routing_instance_id, forwarded
//
// The source is the application where the event names one, else the tag
// source_id, else the origin. Every record has the envelope's tags and origin,
// deployment, job, index, ip and __v1_type, empty where nothing is known; of the
// middle four, Options says what stands there where an envelope does not.
//
// A counter that does not say its total gets one: the sum of its deltas since the
// Server was made, for each origin, name and set of tags. When there are more
// than 10,000 of them, all begin anew.
//
// # Delivery
//
// Datagrams are not acknowledged; what does not arrive is lost. How many the
// system had no room for, Linux says: see Stats.Dropped; the Writer is told of
// them as Missed of an empty batch. Everything else is accounted for:
//
//	Datagrams = Records + Lost + what Refused counts
//
// A datagram that google.golang.org/protobuf would not take is refused, as is one
// whose event is of an unknown kind or missing.
//
// # Signatures
//
// With Options.Secrets a datagram must begin with the HMAC-SHA-256 of the rest,
// 32 bytes, as from agents to servers in the days of this protocol. Programs do
// not sign.
package dropsonde
