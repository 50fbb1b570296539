package processtest

import (
	"testing"

	"github.com/cloudfoundry/loggregator/internal/certs"
)

// CA signs certificates for a test.
type CA struct {
	t testing.TB
	*certs.CA
}

// NewCA makes a CA, and File of its certificate.
func NewCA(t testing.TB) *CA {
	t.Helper()
	ca, err := certs.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &CA{t, ca}
}

// Issue is that of certs.CA.
func (ca *CA) Issue(name string) (cert, key string) {
	ca.t.Helper()
	cert, key, err := ca.CA.Issue(name)
	if err != nil {
		ca.t.Fatal(err)
	}
	return cert, key
}
