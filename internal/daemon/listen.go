package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

// Listen listens on addr, host:port or unix:///path, or returns nil if addr is
// empty: that listener is off. A socket of the flag's name that systemd has passed
// is used instead. Beyond loopback it needs insecure, the user's word that whoever
// can reach the port may use it. The flag's name goes into errors.
func Listen(flagName, network, addr string, insecure bool) (net.Listener, error) {
	if ln, err := passedListener(flagName); ln != nil || err != nil {
		if err == nil && ln.Addr().Network() != "unix" {
			if err = CheckAddress(flagName, ln.Addr().String(), insecure); err != nil {
				ln.Close()
				return nil, err
			}
		}
		return ln, err
	}
	if addr == "" {
		return nil, nil
	}
	if err := CheckAddress(flagName, addr, insecure); err != nil {
		return nil, err
	}
	if path, ok := strings.CutPrefix(addr, "unix://"); ok {
		removeStale(path)
		network, addr = "unix", path
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		return nil, fmt.Errorf("-%s: %w; is another one running? name another address, or none (-%s=) to turn it off", flagName, err, flagName)
	}
	return ln, nil
}

// removeStale removes a socket that nobody listens at: one that a process left
// behind that was killed.
func removeStale(path string) {
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return
	}
	if info, statErr := os.Lstat(path); statErr == nil && info.Mode()&os.ModeSocket != 0 && errors.Is(err, syscall.ECONNREFUSED) {
		os.Remove(path)
	}
}

// ListenPacket is Listen for datagrams, at host:port.
func ListenPacket(flagName, addr string, insecure bool) (net.PacketConn, error) {
	if pc, err := passedPacketConn(flagName); pc != nil || err != nil {
		if err == nil {
			if err = CheckAddress(flagName, pc.LocalAddr().String(), insecure); err != nil {
				pc.Close()
				return nil, err
			}
		}
		return pc, err
	}
	if addr == "" {
		return nil, nil
	}
	if err := CheckAddress(flagName, addr, insecure); err != nil {
		return nil, err
	}
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("-%s: %w; is another one running? name another address, or none (-%s=) to turn it off", flagName, err, flagName)
	}
	return pc, nil
}

// CheckAddress says what is wrong with an address to listen at, without listening.
// An empty one is right.
func CheckAddress(flagName, addr string, insecure bool) error {
	if addr == "" {
		return nil
	}
	if path, ok := strings.CutPrefix(addr, "unix://"); ok {
		if path == "" || path[0] != '/' {
			return fmt.Errorf("-%s: %q is not unix:///path", flagName, addr)
		}
		return nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
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
