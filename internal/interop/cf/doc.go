// Package cf tests with the stock cf command line client, which is built from its
// released module as it is. What it links is in this module's go.mod, at the
// revisions that its own lock file names or released ones near them, so that
// neither gets in another's way.
//
//	cd internal/interop/cf && go test ./...
package cf
