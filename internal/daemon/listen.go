package daemon

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Listen listens on addr, or returns nil if addr is empty: that listener is off.
// Beyond loopback it needs insecure, the user's word that whoever can reach the
// port may use it. The flag's name goes into errors.
func Listen(flagName, network, addr string, insecure bool) (net.Listener, error) {
	if addr == "" {
		return nil, nil
	}
	if err := checkAddress(flagName, addr, insecure); err != nil {
		return nil, err
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		return nil, fmt.Errorf("-%s: %w; is another one running? name another address, or none (-%s=) to turn it off", flagName, err, flagName)
	}
	return ln, nil
}

// ListenPacket is Listen for datagrams.
func ListenPacket(flagName, addr string, insecure bool) (net.PacketConn, error) {
	if addr == "" {
		return nil, nil
	}
	if err := checkAddress(flagName, addr, insecure); err != nil {
		return nil, err
	}
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("-%s: %w; is another one running? name another address, or none (-%s=) to turn it off", flagName, err, flagName)
	}
	return pc, nil
}

func checkAddress(flagName, addr string, insecure bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("-%s: %q is not host:port", flagName, addr)
	}
	if insecure || host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("-%s: %s can be reached from other machines, and this port is not protected; listen on 127.0.0.1, or say -insecure if the network keeps strangers out", flagName, addr)
}

// HTTPServer is an http.Server with bounds on what a client may cost: time and
// size of a request's head, and how long an idle connection stays.
func HTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    512 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
