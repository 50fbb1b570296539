// Package v1pb is the generated code of dropsonde's messages, for tests.
package v1pb

//go:generate sh -c "protoc --plugin=protoc-gen-go=\"$(go tool -n protoc-gen-go)\" --proto_path=github.com/cloudfoundry/loggregator/internal/sonde/v1pb=. --go_out=. --go_opt=module=github.com/cloudfoundry/loggregator/internal/sonde/v1pb github.com/cloudfoundry/loggregator/internal/sonde/v1pb/v1.proto"
