package drain

import (
	"fmt"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	// repeatInterval is the least time between two lines that tell an application
	// of one outage.
	repeatInterval = 5 * time.Minute
	// maxLosers bounds for how many applications losses are added up.
	maxLosers = 64
)

// teller tells applications in their own stream, by log records of source type
// LGR, what befalls their drain.
type teller struct {
	to      envelope.Writer // nil: nobody is told
	url     string
	apps    bool                 // the drain is one application's: it is told of outages, too
	losers  map[string]*loss     // by source id: what is to be told
	toldAt  map[string]time.Time // by source id: when it was told of a loss last
	stateAt time.Time            // when the application was told of the drain's state last
	down    string               // what it was told
	warned  int                  // days before the end of certificates of which it was warned last
}

// selectsAll reports whether a query is not that of anybody's own drain.
func selectsAll(list []envelope.Selector) bool {
	for _, s := range list {
		if s.SourceID == "" && s.App == "" && s.Space == "" && s.Org == "" {
			return true
		}
	}
	return false
}

// selectsApps reports whether a query names applications.
func selectsApps(list []envelope.Selector) bool {
	for _, s := range list {
		if s.SourceID == "" && s.App == "" {
			return false
		}
	}
	return true
}

// account counts a loss that is settled: for Stats, and for the application.
func (s *sender) account(l *loss) {
	s.stats.LastGap = &Gap{Records: l.records, From: time.Unix(0, l.from), Until: time.Unix(0, l.until), Reason: l.reason}
	if l.source == nil {
		return
	}
	if s.teller.losers == nil {
		s.teller.losers = make(map[string]*loss)
	}
	if known := s.teller.losers[string(l.source)]; known != nil {
		known.gap.add(&l.gap)
	} else if len(s.teller.losers) < maxLosers {
		s.teller.losers[string(l.source)] = l
	}
}

// losses tells applications of theirs, and gives how long until there is more
// to do; 0: nothing is left.
func (t *teller) losses(s *sender, end bool) (wait time.Duration) {
	now := time.Now()
	for id, l := range t.losers {
		if pause := noticeInterval - now.Sub(t.toldAt[id]); pause > 0 && !end {
			if wait == 0 || pause < wait {
				wait = pause
			}
			continue
		}
		delete(t.losers, id)
		if t.toldAt == nil || len(t.toldAt) > maxLosers {
			t.toldAt = make(map[string]time.Time)
		}
		t.toldAt[id] = now
		number := fmt.Sprint(l.records)
		if l.unknown {
			number = "An unknown number of"
		}
		const layout = "2006-01-02T15:04:05+00:00"
		t.write(s, l.source, l.tags, fmt.Sprintf("%s messages lost for application %s in user provided syslog drain with url %s, from %s to %s: %s",
			number, l.source, t.url, time.Unix(0, l.from).UTC().Format(layout), time.Unix(0, l.until).UTC().Format(layout), l.reason))
	}
	return wait
}

// state tells the application of the drain that its receiver cannot be reached,
// or why it refuses; "" that all is well again. What was said is not said again
// for a while.
func (t *teller) state(s *sender, text string) {
	if t.to == nil || !t.apps || text == "" && t.down == "" {
		return
	}
	least := noticeInterval
	if text != "" && t.down != "" {
		least = repeatInterval
	}
	now := time.Now()
	if now.Sub(t.stateAt) < least {
		return
	}
	t.stateAt, t.down = now, text
	if text == "" {
		text = "The syslog drain with url " + t.url + " is connected again"
	}
	t.say(s, text)
}

// expiring warns of certificates 30, 7 and one day before they end.
func (t *teller) expiring(s *sender, end time.Time) {
	if end.IsZero() {
		return
	}
	left := time.Until(end)
	days := 0
	for _, d := range []int{30, 7, 1} {
		if left < time.Duration(d)*24*time.Hour {
			days = d
		}
	}
	if days == t.warned {
		return
	}
	if t.warned = days; days == 0 { // it was renewed
		return
	}
	s.log.Warn("a certificate ends soon", "end", end.UTC())
	if t.to != nil && t.apps {
		t.say(s, fmt.Sprintf("A certificate of the syslog drain with url %s ends on %s", t.url, end.UTC().Format(time.RFC1123)))
	}
}

// say writes a line to the application whose records the drain sent last.
func (t *teller) say(s *sender, text string) {
	s.feed.mu.Lock()
	var source, tags []byte
	if h := s.feed.format.last; h != nil {
		source, tags = append(source, h.source...), append(tags, h.tags...)
	} else if len(s.query.Select) > 0 {
		source = []byte(s.query.Select[0].SourceID)
	}
	s.feed.mu.Unlock()
	if len(source) > 0 {
		t.write(s, source, tags, text)
	}
}

// write writes one line. The tags are those of a record of the application,
// without what said something of that record alone.
func (t *teller) write(s *sender, source, tags []byte, text string) {
	id := envelope.Identity{SourceID: string(source), InstanceID: "0", Tags: make(map[string]string)}
	for k, v := range envelope.Envelope(tags).Tags() {
		switch string(k) {
		case envelope.TagAppID, envelope.TagAppName, envelope.TagSpaceID, envelope.TagSpaceName, envelope.TagOrgID, envelope.TagOrgName:
			id.Tags[string(k)] = string(v)
		}
	}
	id.Tags[envelope.TagSourceType] = envelope.SourceTypeLGR
	b, err := envelope.Of(envelope.AppendLog(nil, id.Encode(), time.Now().UnixNano(), envelope.Err, []byte(text)))
	if err == nil {
		err = t.to.WriteBatch(s.ctx, b)
	}
	if err != nil && s.ctx.Err() == nil {
		s.log.Warn("the application could not be told of its drain", "error", err)
	}
}
