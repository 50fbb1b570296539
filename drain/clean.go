package drain

import (
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/cloudfoundry/loggregator/envelope"
)

// printable holds the bytes of a HOSTNAME, APP-NAME or PROCID, named those of a
// PARAM-NAME (RFC 5424, section 6).
var printable, named [256]bool

func init() {
	for c := 33; c <= 126; c++ {
		printable[c] = true
		named[c] = c != '=' && c != ']' && c != '"'
	}
}

func all(b []byte, legal *[256]bool) bool {
	for _, c := range b {
		if !legal[c] {
			return false
		}
	}
	return true
}

// appendPrintable appends at most limit bytes of b. If b holds anything but
// printable ASCII, runs of white space become one dash, the rest is left out,
// and dashes at the end are removed.
func appendPrintable(dst, b []byte, limit int) []byte {
	if all(b, &printable) {
		return append(dst, b[:min(len(b), limit)]...)
	}
	start := len(dst)
	dst = appendDashed(dst, b, &printable)
	dst = dst[:min(len(dst), start+max(limit, 0))]
	return trimDashes(dst, start)
}

// appendDashed appends the legal bytes of b, one dash for each run of white
// space, and no dashes at the end.
func appendDashed(dst, b []byte, legal *[256]bool) []byte {
	start, space := len(dst), false
	for _, c := range b {
		if c == ' ' || c >= '\t' && c <= '\r' {
			if !space {
				dst = append(dst, '-')
			}
			space = true
			continue
		}
		space = false
		if legal[c] {
			dst = append(dst, c)
		}
	}
	return trimDashes(dst, start)
}

func trimDashes(dst []byte, start int) []byte {
	for len(dst) > start && dst[len(dst)-1] == '-' {
		dst = dst[:len(dst)-1]
	}
	return dst
}

// labelled holds the bytes of a label of a HOSTNAME.
var labelled = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '-'
	}
	return t
}()

// appendLabel appends an organization's, space's or application's name as a
// label of at most 63 bytes. Three of them and two dots are within maxHostname.
func appendLabel(dst, b []byte) []byte {
	start := len(dst)
	dst = appendDashed(dst, b, &labelled)
	return trimDashes(dst[:min(len(dst), start+63)], start)
}

// appendSourceType appends the tag source_type as PROCID has it.
func appendSourceType(dst, b []byte) []byte {
	start := len(dst)
	dst = appendDashed(dst, b, &printable)
	dst = trimDashes(dst[:min(len(dst), start+maxProcID-2)], start)
	for i := start; i < len(dst); i++ {
		if c := dst[i]; c >= 'a' && c <= 'z' {
			dst[i] = c - 'a' + 'A'
		}
	}
	return dst
}

// appendTags appends tags, which are sorted and unique, as parameters.
func appendTags(dst []byte, tags []envelope.Tag) []byte {
	legal := true
	for _, t := range tags {
		legal = legal && isName(t.Key)
	}
	var names []string
	if !legal {
		names = cleanNames(tags)
	}
	for i, t := range tags {
		dst = append(dst, ' ')
		if legal {
			dst = append(dst, t.Key...)
		} else {
			dst = append(dst, names[i]...)
		}
		dst = appendValue(append(dst, `="`...), t.Value, noLimit)
		dst = append(dst, '"')
	}
	return dst
}

func isName(b []byte) bool { return len(b) > 0 && len(b) <= maxName && all(b, &named) }

// cleanNames gives each tag a legal name that no other has: its own, if that is
// legal; else with an underscore for every illegal byte, cut to 32 bytes, and
// with a number at the end if that name is taken.
func cleanNames(tags []envelope.Tag) []string {
	names := make([]string, len(tags))
	taken := make(map[string]int, len(tags)) // name to the next number to try
	for i, t := range tags {
		if isName(t.Key) {
			names[i] = string(t.Key)
			taken[names[i]] = 2
		}
	}
	for i, t := range tags {
		if names[i] != "" {
			continue
		}
		b := slices.Clone(t.Key[:min(len(t.Key), maxName)])
		if len(b) == 0 {
			b = []byte{'_'}
		}
		for j, c := range b {
			if !named[c] {
				b[j] = '_'
			}
		}
		name := string(b)
		for n := taken[name]; taken[name] != 0; n++ {
			suffix := "_" + strconv.Itoa(n)
			taken[string(b)] = n + 1
			name = string(b[:min(len(b), maxName-len(suffix))]) + suffix
		}
		names[i] = name
		taken[name] = 2
	}
	return names
}

// plain holds the bytes that stand in a PARAM-VALUE as they are and are a whole
// character each.
var plain = func() (t [256]bool) {
	for c := range utf8.RuneSelf {
		t[c] = c != '"' && c != '\\' && c != ']'
	}
	return t
}()

// appendValue appends b as PARAM-VALUE: UTF-8, with a backslash before quote,
// backslash and closing bracket; at most limit bytes, cut between characters.
func appendValue(dst, b []byte, limit int) []byte {
	end := len(dst) + limit
	if limit == noLimit {
		end = noLimit
	}
	for len(b) > 0 {
		i := 0
		for i < len(b) && plain[b[i]] {
			i++
		}
		if i > end-len(dst) {
			return append(dst, b[:end-len(dst)]...)
		}
		dst = append(dst, b[:i]...)
		if b = b[i:]; len(b) == 0 {
			break
		}
		if len(dst)+utf8.UTFMax > end {
			break
		}
		if b[0] < utf8.RuneSelf {
			dst = append(dst, '\\', b[0])
			b = b[1:]
			continue
		}
		r, size := utf8.DecodeRune(b)
		dst = utf8.AppendRune(dst, r)
		b = b[size:]
	}
	return dst
}
