package grpcv2

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
	pb "github.com/cloudfoundry/loggregator/envelope/envelopepb"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "loggregatorCA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

// sign makes a certificate with these names, the first of which is the common one.
func (a *authority) sign(names ...string) tls.Certificate {
	a.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &a.key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a *authority) server(names ...string) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.sign(names...)}, ClientCAs: a.pool(), ClientAuth: tls.RequireAndVerifyClientCert}
}

func (a *authority) client(name string, certs ...tls.Certificate) *tls.Config {
	return &tls.Config{ServerName: name, RootCAs: a.pool(), Certificates: certs}
}

// TestMutualTLS: who has no certificate, or a stranger's, is not let in; who has one
// that may read needs no token; and a token, if there is one, counts for more.
func TestMutualTLS(t *testing.T) {
	ca, strangers := newAuthority(t), newAuthority(t)
	b := newBench(t, &Options{
		TLS: ca.server(ServerNames...),
		Certificates: func(c *x509.Certificate) (string, bool) {
			return "certificate:" + c.Subject.CommonName, c.Subject.CommonName == "reader"
		},
	}, grants{}, nil)
	ask := ask{sel: logs()}.bytes()
	for name, tt := range map[string]struct {
		config *tls.Config
		want   codes.Code
	}{
		"no certificate":     {ca.client("metron"), codes.Unavailable},
		"a stranger's":       {ca.client("metron", strangers.sign("reader")), codes.Unavailable},
		"another server":     {ca.client("log-cache", ca.sign("reader")), codes.Unavailable},
		"one who only sends": {ca.client("reverselogproxy", ca.sign("sender")), codes.Unauthenticated},
	} {
		if err := open(t, dial(t, b.addr, tt.config), "BatchedReceiver", ask).end(); status.Code(err) != tt.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range ServerNames {
		r := open(t, dial(t, b.addr, ca.client(name, ca.sign("reader"))), "BatchedReceiver", ask)
		s := sender(t, dial(t, b.addr, ca.client(name, ca.sign("sender"))), "BatchSender")
		s.SendMsg(&pb.EnvelopeBatch{Batch: []*pb.Envelope{line("a", "1")}})
		if err := finish(s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		r.wait(1)
		r.cancel()
		r.end()
	}
	ctx := bearer(t.Context(), "eve") // a bad token is not made good by a certificate
	stream := openWith(t, ctx, func() {}, dial(t, b.addr, ca.client("metron", ca.sign("reader"))), "BatchedReceiver", ask)
	if err := stream.end(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("with a bad token: %v", err)
	}
	b.balance()
	if s := b.gate.Stats(); s.Admitted != 3 || s.BadToken != 2 {
		t.Errorf("%+v", s)
	}
}

// TestCertificatesAreAskedForOnly: a certificate that TLS has not verified says
// nothing.
func TestCertificatesAreAskedForOnly(t *testing.T) {
	ca := newAuthority(t)
	config := ca.server("reverselogproxy")
	config.ClientAuth = tls.RequireAnyClientCert
	b := newBench(t, &Options{TLS: config, Certificates: func(*x509.Certificate) (string, bool) { return "x", true }}, grants{}, nil)
	cc := dial(t, b.addr, ca.client("reverselogproxy", newAuthority(t).sign("reader")))
	if err := open(t, cc, "BatchedReceiver", ask{sel: logs()}.bytes()).end(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("%v", err)
	}
}

// TestLinkTLS: the name that an address gives is looked for, and the current
// certificate is shown.
func TestLinkTLS(t *testing.T) {
	ca := newAuthority(t)
	b := newBench(t, &Options{TLS: ca.server("metron")}, nil, nil)
	router := loggregator.New(nil)
	defer router.Close()
	emitter.New(router, envelope.Identity{SourceID: "shop"}, nil).Log(envelope.Out, "1")
	shown := 0
	current := func() *tls.Config {
		shown++
		return ca.client("", ca.sign("component"))
	}
	l := newLink(t, "grpcs://"+b.addr+"?name=metron", router, &LinkOptions{CurrentTLS: current})
	flush(t, l)
	if s := l.Stats(); s.Acked != 1 || shown != 1 || s.Server != "grpcs://"+b.addr {
		t.Errorf("%+v, asked %d times", s, shown)
	}
	for name, o := range map[string]*LinkOptions{
		"another name":   {TLS: ca.client("", ca.sign("component"))},
		"no certificate": {TLS: ca.client("metron")},
		"no CA":          {TLS: &tls.Config{ServerName: "metron", Certificates: []tls.Certificate{ca.sign("component")}}},
	} {
		o.Backoff = quick.Backoff
		l := newLink(t, "grpcs://"+b.addr, router, o)
		eventually(t, name, func() bool { return l.Stats().LastError != "" })
		if s := l.Stats(); s.Acked > 0 || s.Connected || s.Sent > 0 || name != "no certificate" && !strings.Contains(s.LastError, "x509") {
			t.Errorf("%s: %+v", name, s)
		}
		l.Close()
	}
}
