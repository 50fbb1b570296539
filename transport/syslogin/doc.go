// Package syslogin takes in syslog, from programs and machines that speak
// nothing else, and hands it to an envelope.Writer.
//
// A [Server] serves stream listeners (TCP, TLS, unix) and datagram sockets (UDP,
// unix: what /dev/log is). What it is sent, it recognises by itself: messages of
// RFC 5424 and RFC 3164, and on streams, frame by frame, octet counting and
// messages that end with LF or NUL (RFC 6587, sections 3.4.1 and 3.4.2).
//
// # What becomes of a message
//
// A message becomes a log record with its text and its own time. Severities from
// emerg to err go to the stream ERR, the others to OUT: that is where programs
// that print write them, and where drains put them back (err for ERR, info for
// OUT). Severity, facility, hostname, appname, procid and msgid become tags of
// these names, and a parameter of structured data one named id.name; parameters
// of tags@47450, in which drains of Loggregator and Cloud Foundry send tags, get
// their own names back. At most 32 parameters of 1 KiB become tags; that a
// message had more is counted.
//
// A time without a year is the last such time, up to a week ahead of ours, in
// Options.Location; a message without any has the time of arrival. A line that does not parse is kept as it is,
// with the time of arrival and, if at least it begins with a priority, with
// that. It is counted as Unparsed.
//
// A message longer than Options.MaxMessage becomes several records, each with
// the tag "part": "1", "2", …, and on the last its number and how many there are,
// "3/3". So no length is too long, and none costs more memory than MaxMessage.
//
// # Whose a message is
//
// Source, instance and tags of a record come from Options.Identify, which sees
// an [Origin]. By default the program's name is the source id and the name of
// the application, and the host is the instance; see [Origin.Identity]. Syslog
// proves nothing of this: whoever reaches the port can say any name, and in
// tags@47450 any tag that Identify does not give. Beyond loopback that asks for
// TLS with client certificates, or for tags of Identify, which win.
//
// # Delivery
//
// Syslog knows no acknowledgement. What a Server has read, it hands over before
// it reads on; a Writer that waits makes senders over streams wait. What was in
// the network when a connection broke is lost uncounted, as always with syslog.
// Where the system had no room for datagrams, Linux says how many: see
// Stats.Dropped; the Writer is told of them as Missed of an empty batch.
//
//	Messages + Parts = Records + Filtered + Lost
//
// # Rubbish
//
// TLS on a port without it, and HTTP, are recognised by their first bytes and
// turned away; a message that does not end within Options.MessageTimeout is
// taken as far as it has come, and its connection closed. Each is counted by
// reason, and named in the log once a minute. Anything else that is sent to a
// syslog port is lines of text, and kept.
//
// # Memory
//
// A connection starts with 4 KiB and grows with what has arrived, never with a
// length that was merely announced, up to MaxMessage and 4 KiB more; all
// together stay within Options.MaxBuffered beyond what they start with. While one
// hands over what it has read, that takes up to 256 KiB of records, and one more.
// A datagram socket takes up to 32 times MaxMessage while many wait. Identities
// are kept of up to 4,096 origins.
package syslogin
