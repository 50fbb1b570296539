// Package envelopepb holds the generated Go types of Loggregator's messages,
// for programs that want an envelope decoded whole and for tests that need a
// reference. The data path does not use it: package envelope reads the bytes.
package envelopepb

// protoc is the compiler any protobuf distribution ships (Debian:
// protobuf-compiler); the Go generator is pinned by the tool line of go.mod.
// The file is given to it under its full import path, because that name too is
// registered and must be nobody else's.
//go:generate sh -c "protoc --plugin=protoc-gen-go=\"$(go tool -n protoc-gen-go)\" --proto_path=github.com/cloudfoundry/loggregator/envelope/envelopepb=. --go_out=. --go_opt=module=github.com/cloudfoundry/loggregator/envelope/envelopepb github.com/cloudfoundry/loggregator/envelope/envelopepb/envelope.proto"
