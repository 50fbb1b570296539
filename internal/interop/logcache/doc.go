// Package logcache holds tests with the stock client of Log Cache's API:
//
//	cd internal/interop/logcache && go test ./...
package logcache
