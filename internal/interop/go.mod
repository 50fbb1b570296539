module github.com/cloudfoundry/loggregator/internal/interop

go 1.26

require (
	code.cloudfoundry.org/go-loggregator/v10 v10.3.1
	github.com/cloudfoundry/dropsonde v1.1.0
	github.com/cloudfoundry/loggregator v0.0.0
	github.com/cloudfoundry/sonde-go v0.0.0-20251217143644-d1670a435f2a
	google.golang.org/grpc v1.82.1
	google.golang.org/protobuf v1.36.11
)

require (
	code.cloudfoundry.org/go-diodes v0.0.0-20260209061029-a81ffbc46978 // indirect
	code.cloudfoundry.org/tlsconfig v0.46.0 // indirect
	github.com/nu7hatch/gouuid v0.0.0-20131221200532-179d4d0c4d8d // indirect
	golang.org/x/net v0.53.0 // indirect
	golang.org/x/sys v0.43.0 // indirect
	golang.org/x/text v0.36.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260414002931-afd174a4e478 // indirect
)

replace github.com/cloudfoundry/loggregator => ../..
