package drain

import "time"

const (
	// agreeing is how many complete answers in a row must lack a binding before
	// it is taken for gone: servers that page through a list that changes leave
	// some out.
	agreeing = 2
	// doubtTime is how long answers that lack more than half of the bindings,
	// or all, must go on doing so: a cache that was started anew and does not
	// reach its own source says in good faith that there are none.
	doubtTime = time.Hour
)

// caution keeps bindings that a server's answer does not name, until it is sure
// that they are gone.
type caution struct {
	absent map[Binding]int // complete answers in a row that lacked it
	doubt  time.Time       // since when more than half is missing; zero: it is not
	kept   int             // bindings that were missing and kept, the last time
}

// merge gives the answer with what has to stay besides. held are the bindings
// that there are.
func (c *caution) merge(now time.Time, held map[Binding]*bound, answer []listed) []listed {
	named := make(map[Binding]bool, len(answer))
	replaced := make(map[Binding]bool) // selections that have a binding they had not
	for _, e := range answer {
		named[e.Binding] = true
		if held[e.Binding] == nil && e.err == nil {
			replaced[e.selection()] = true
		}
	}
	var missing []Binding
	for b := range held {
		if !named[b] {
			missing = append(missing, b)
		}
	}
	if 2*len(missing) <= len(held) {
		c.doubt = time.Time{}
	} else if c.doubt.IsZero() {
		c.doubt = now
	}
	believed := c.doubt.IsZero() || now.Sub(c.doubt) >= doubtTime
	absent := make(map[Binding]int, len(missing))
	c.kept = 0
	for _, b := range missing {
		absent[b] = c.absent[b] + 1
		if replaced[b.selection()] || believed && absent[b] >= agreeing {
			continue
		}
		c.kept++
		answer = append(answer, listed{Binding: b})
	}
	c.absent = absent
	return answer
}
