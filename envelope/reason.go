package envelope

// Reason is why records are missing. It travels with their number (see
// Batch.Missed), and stands in the line that tells of them.
type Reason uint8

const (
	ReasonUnknown  Reason = iota // by their numbers they were made, and nobody says where they went
	ReasonEmitter                // the program's own memory was full
	ReasonAgent                  // the agent's memory was full, or they became too old there
	ReasonLink                   // given up while there was no connection to the next process
	ReasonDatagram               // sent in a datagram that did not arrive
	ReasonRate                   // more than the source may say
	ReasonRefused                // not valid, or too large
	Reasons                      // how many there are
)

var reasonNames = [Reasons]string{
	"lost on the way", "emitter full", "agent budget", "link down too long", "datagram lost", "rate limit", "refused",
}

// String is what people are told, and the label of metrics.
func (r Reason) String() string {
	if r < Reasons {
		return reasonNames[r]
	}
	return reasonNames[ReasonUnknown]
}
