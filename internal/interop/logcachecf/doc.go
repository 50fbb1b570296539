// Package logcachecf holds tests that do what the cf command line client does,
// request for request, with the very client of Log Cache that it has inside. That
// one cannot be linked beside the newer one of package logcache.
//
//	cd internal/interop/logcachecf && go test ./...
package logcachecf
