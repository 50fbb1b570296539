package dropsonde

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"
)

// verifier checks signatures, for one goroutine.
type verifier struct {
	macs []hash.Hash // one for each secret
	sum  []byte
}

func newVerifier(secrets [][]byte) *verifier {
	v := &verifier{}
	for _, secret := range secrets {
		v.macs = append(v.macs, hmac.New(sha256.New, secret))
	}
	return v
}

// open takes the signature off a datagram; where there are no secrets, there is
// none.
func (v *verifier) open(b []byte) (message []byte, ok bool) {
	if len(v.macs) == 0 {
		return b, true
	}
	if len(b) < sha256.Size {
		return nil, false
	}
	for _, mac := range v.macs {
		mac.Reset()
		mac.Write(b[sha256.Size:])
		v.sum = mac.Sum(v.sum[:0])
		if hmac.Equal(v.sum, b[:sha256.Size]) {
			return b[sha256.Size:], true
		}
	}
	return nil, false
}
