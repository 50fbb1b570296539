package envelope

// tagValue finds a tag in an envelope laid out as every known encoder does: keys
// of one byte, and in each entry of the tags the key, then the value. ok is
// false where it is laid out differently; then the general walk has to look.
//
// Reading a tag is most of what it costs to show a line or to match one, and the
// general walk takes five times as long.
func (e Envelope) tagValue(name string) (value []byte, found, ok bool) {
	for i := 0; i < len(e); {
		key := e[i]
		i++
		switch key {
		case keyTimestamp:
			if _, i = uvarint(e, i); i < 0 {
				return nil, false, false
			}
		case keyTag:
			at, end := span(e, i)
			if end < 0 || at == end || e[at] != 1<<3|2 {
				return nil, false, false
			}
			k, kEnd := span(e[:end], at+1)
			if kEnd < 0 || kEnd == end || e[kEnd] != 2<<3|2 {
				return nil, false, false
			}
			v, vEnd := span(e[:end], kEnd+1)
			if vEnd != end {
				return nil, false, false
			}
			if string(e[k:kEnd]) == name {
				value, found = e[v:vEnd], true
			}
			i = end
		case keySourceID, keyInstanceID, keyLog, keyCounter, keyGauge, keyTimer, keyEvent:
			if _, i = span(e, i); i < 0 {
				return nil, false, false
			}
		default:
			return nil, false, false
		}
	}
	return value, found, true
}
