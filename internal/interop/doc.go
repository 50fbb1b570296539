// Package interop holds tests with the libraries that others use to reach
// Loggregator. It is a module of its own, so that nobody who uses Loggregator
// downloads them:
//
//	cd internal/interop && go test ./...
package interop
