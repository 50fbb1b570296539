package transport

import (
	"log/slog"
	"time"
)

// linesPerMinute bounds what the log of a link says that comes and goes.
const linesPerMinute = 10

// changes logs when a link is made and when it is lost: not each attempt, and
// not each change where they come thick and fast.
type changes struct {
	to *slog.Logger

	seen      bool // there has been a connection
	connected bool
	failing   bool // it has been said that there is none

	minute time.Time // when the current one began
	lines  int       // written in it
	unsaid int       // changes left out since the last line
}

func (c *changes) up(t target) {
	c.seen, c.connected, c.failing = true, true, false
	if c.may() {
		c.to.Info("connected", "server", t.String(), "changes_not_logged", c.said())
	}
}

func (c *changes) down(t target, err error) {
	what := "connection lost"
	if !c.connected {
		if c.failing {
			return
		}
		what = "cannot connect"
	}
	c.connected, c.failing = false, true
	if c.may() {
		c.to.Warn(what, "server", t.String(), "error", err.Error(), "changes_not_logged", c.said())
	}
}

func (c *changes) may() bool {
	if now := time.Now(); c.minute.IsZero() || now.Sub(c.minute) >= time.Minute {
		c.minute, c.lines = now, 0
	}
	if c.lines >= linesPerMinute {
		c.unsaid++
		return false
	}
	c.lines++
	return true
}

func (c *changes) said() int {
	n := c.unsaid
	c.unsaid = 0
	return n
}
