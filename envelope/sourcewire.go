package envelope

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// ErrSourceInfo means bytes that are no SourceInfo.
var ErrSourceInfo = errors.New("envelope: not a source's description")

// AppendWire appends s as ParseSourceInfo reads it.
func (s *SourceInfo) AppendWire(dst []byte) []byte {
	for i, text := range [...]string{s.SourceID, s.App, s.AppID, s.Space, s.SpaceID, s.Org, s.OrgID} {
		dst = appendText(dst, protowire.Number(1+i), text)
	}
	if s.Ring != 0 {
		dst = protowire.AppendFixed64(protowire.AppendTag(dst, 8, protowire.Fixed64Type), uint64(s.Ring))
	}
	if s.Held != 0 {
		dst = appendNumber(dst, 9, s.Held)
	}
	if s.Gone != 0 {
		dst = appendNumber(dst, 10, s.Gone)
	}
	dst = appendInt(dst, 11, s.Bytes)
	dst = appendInt(dst, 12, s.Oldest)
	return appendInt(dst, 13, s.Newest)
}

// ParseSourceInfo reads what AppendWire wrote, and passes over fields that it does
// not know.
func ParseSourceInfo(m []byte) (SourceInfo, error) {
	var s SourceInfo
	texts := [...]*string{&s.SourceID, &s.App, &s.AppID, &s.Space, &s.SpaceID, &s.Org, &s.OrgID}
	for len(m) > 0 {
		num, v, rest, ok := consumeField(m)
		if !ok {
			return SourceInfo{}, ErrSourceInfo
		}
		m = rest
		switch {
		case v.typ == bytesType && num <= protowire.Number(len(texts)):
			*texts[num-1] = string(v.bytes)
		case v.typ == fixed64Type && num == 8:
			s.Ring = StreamID(v.n)
		case v.typ != varintType:
		case num == 9:
			s.Held = v.n
		case num == 10:
			s.Gone = v.n
		case num == 11:
			s.Bytes = protowire.DecodeZigZag(v.n)
		case num == 12:
			s.Oldest = protowire.DecodeZigZag(v.n)
		case num == 13:
			s.Newest = protowire.DecodeZigZag(v.n)
		}
	}
	return s, nil
}
