package drains

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// dialTLS makes connections with the configuration of the moment.
func dialTLS(current func() *tls.Config) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		d := tls.Dialer{Config: current()}
		return d.DialContext(ctx, network, addr)
	}
}
