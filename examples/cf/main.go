// Cf stands in for a Cloud Foundry, as far as cf needs one to show logs: the root
// page, users who log in, and who sees which applications. Its signed tokens are
// what Loggregator's own authorization takes. What there is, is in world.json.
//
//	go run ./cmd/loggregator
//	go run ./examples/cf
//	cf login -a http://127.0.0.1:9000 -u ann -p ann -o acme -s dev
//	cf logs shop --recent
package main

import (
	_ "embed"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
)

//go:embed world.json
var defaultWorld []byte

func main() {
	listen := flag.String("listen", "127.0.0.1:9000", "`address` to listen at")
	logCache := flag.String("log-cache", "http://127.0.0.1:8080", "`address` of Loggregator, for people")
	file := flag.String("world", "", "`file` of users, orgs, spaces and apps, in place of the one built in")
	flag.Parse()
	world := defaultWorld
	if *file != "" {
		var err error
		if world, err = os.ReadFile(*file); err != nil {
			log.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	base := "http://" + ln.Addr().String()
	handler, err := newCF(world, base, *logCache)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("cf login -a %s -u ann -p ann -o acme -s dev\n", base)
	log.Fatal(http.Serve(ln, handler))
}
