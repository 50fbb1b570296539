// Package freeport finds ports for daemons that are told where to listen.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

var given sync.Map

// Addr is an address of this machine at which nothing listens, another one each
// time. Its port is below those that systems give to connections and to who asks
// for any: one of those would take it while the daemon is not there yet, or away,
// and get what is meant for the daemon.
func Addr() string {
	for {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		if _, before := given.LoadOrStore(addr, true); before {
			continue
		}
		if ln, err := net.Listen("tcp", addr); err == nil {
			ln.Close()
			return addr
		}
	}
}
