package syslogmsg

import (
	"bytes"
	"time"
)

const (
	minYear = 1678 // whose nanoseconds since 1970 fit into 64 bits
	maxYear = 2261
)

// time reads an RFC 3339 timestamp with "T" and up to nine decimals from the
// beginning of b, and returns its length; zero if there is none. A time whose
// nanoseconds do not fit into 64 bits is read, and not known.
func (m *Message) time(b []byte) int {
	if len(b) < len("2006-01-02T15:04:05Z") || b[4] != '-' || b[7] != '-' || b[10] != 'T' || b[13] != ':' || b[16] != ':' {
		return 0
	}
	year := 100*two(b[0:]) + two(b[2:])
	month, day := two(b[5:]), two(b[8:])
	hour, minute, second := two(b[11:]), two(b[14:]), two(b[17:])
	if two(b[0:])|two(b[2:])|month|day|hour|minute|second < 0 || // one of them is no number
		month < 1 || month > 12 || day < 1 || day > daysIn(year, month) || hour > 23 || minute > 59 || second > 59 {
		return 0
	}
	n := len("2006-01-02T15:04:05")
	var ns int64
	if b[n] == '.' {
		var digits int
		ns, digits = fraction(b[n+1:])
		n += 1 + digits
		if digits == 0 || digits > 9 || n == len(b) {
			return 0
		}
	}
	offset := 0
	switch b[n] {
	case 'Z':
		n++
	case '+', '-':
		if len(b) < n+6 || b[n+3] != ':' {
			return 0
		}
		h, min := two(b[n+1:]), two(b[n+4:])
		if h|min < 0 || h > 23 || min > 59 {
			return 0
		}
		if offset = 60 * (60*h + min); b[n] == '-' {
			offset = -offset
		}
		n += 6
	default:
		return 0
	}
	if year < minYear || year > maxYear {
		return n
	}
	s := int64(days(year, month, day))*86400 + int64(3600*hour+60*minute+second-offset)
	m.HasTime, m.Timestamp = true, s*1e9+ns
	return n
}

// two is the number of the first two digits of b, negative if they are none.
func two(b []byte) int {
	x, y := b[0]-'0', b[1]-'0'
	if x > 9 || y > 9 {
		return -1
	}
	return 10*int(x) + int(y)
}

var monthDays = [...]int{31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}

func daysIn(year, month int) int {
	if month == 2 && year%4 == 0 && (year%100 != 0 || year%400 == 0) {
		return 29
	}
	return monthDays[month-1]
}

// days is the number of days from 1970-01-01 to a date of the Gregorian
// calendar. Years begin in March here, so that a leap day is a year's last.
func days(year, month, day int) int {
	month -= 3
	if month < 0 {
		month += 12
		year--
	}
	return 365*year + year/4 - year/100 + year/400 + (153*month+2)/5 + day - 1 - 719468
}

// ahead is how far a clock may be ahead of ours, and still be taken to mean this
// year.
const ahead = 7 * 24 * time.Hour

const months = "JanFebMarAprMayJunJulAugSepOctNovDec"

// stamp reads the time of RFC 3164, section 4.1.2, "Oct  9 22:33:20", from the
// beginning of b and returns its length; zero if there is none. Where the day
// has no leading space, where a year stands before or after the clock's time,
// and where the seconds have decimals, it is read all the same: devices differ.
// A year that is not told is the last one that does not put the time more than a
// week after now, whose location is where the clock is taken to be.
func (m *Message) stamp(b []byte, now time.Time) int {
	if len(b) < len("Jan 2 15:04:05") || b[3] != ' ' {
		return 0
	}
	month := bytes.Index([]byte(months), b[:3])
	if month < 0 || month%3 != 0 {
		return 0
	}
	month = month/3 + 1
	n := 4
	if b[n] == ' ' {
		n++
	}
	day, l := number(b[n:], 2)
	if n += l; l == 0 || n >= len(b) || b[n] != ' ' || day < 1 || day > daysIn(2000, month) {
		return 0
	}
	n++
	year := 0
	if y, l := number(b[n:], 4); l == 4 && len(b) > n+4 && b[n+4] == ' ' {
		year = y
		n += 5
	}
	if len(b) < n+8 || b[n+2] != ':' || b[n+5] != ':' {
		return 0
	}
	hour, minute, second := two(b[n:]), two(b[n+3:]), two(b[n+6:])
	if hour|minute|second < 0 || hour > 23 || minute > 59 || second > 59 {
		return 0
	}
	n += 8
	var ns int64
	if n < len(b) && b[n] == '.' {
		var digits int
		if ns, digits = fraction(b[n+1:]); digits > 0 {
			n += 1 + digits
		}
	}
	at := func(year int) time.Time {
		return time.Date(year, time.Month(month), day, hour, minute, second, int(ns), now.Location())
	}
	var t time.Time
	if year != 0 {
		t = at(year)
	} else {
		latest := now.Add(ahead)
		for year = latest.Year(); ; year-- {
			if t = at(year); !t.After(latest) {
				break
			}
		}
	}
	if t.Year() >= minYear && t.Year() <= maxYear {
		m.HasTime, m.Timestamp = true, t.UnixNano()
	}
	return n
}

// fraction reads the decimals of a second as nanoseconds, and how many there are.
func fraction(b []byte) (ns int64, digits int) {
	for ; digits < len(b) && isDigit(b[digits]); digits++ {
		if digits < 9 {
			ns = 10*ns + int64(b[digits]-'0')
		}
	}
	for n := digits; n < 9; n++ {
		ns *= 10
	}
	return ns, digits
}

// number reads up to limit digits.
func number(b []byte, limit int) (v, n int) {
	for n < len(b) && n < limit && isDigit(b[n]) {
		v = 10*v + int(b[n]-'0')
		n++
	}
	return v, n
}
