// Package logcachecf holds tests that do what version 8 of the cf command line client
// does, request for request, with the very client of Log Cache that it has inside.
// That one cannot be linked beside the newer one of package logcache. Package cf
// runs version 7 itself.
//
//	cd internal/interop/logcachecf && go test ./...
package logcachecf
