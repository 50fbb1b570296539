module github.com/cloudfoundry/loggregator/internal/interop/noaa

go 1.26

require (
	github.com/cloudfoundry/loggregator v0.0.0
	github.com/cloudfoundry/noaa v2.1.0+incompatible
	github.com/cloudfoundry/sonde-go v0.0.0-20171206171820-b33733203bb4
	github.com/gogo/protobuf v1.3.2
	github.com/gorilla/websocket v1.5.3
)

require (
	github.com/coder/websocket v1.8.14 // indirect
	github.com/josharian/intern v1.0.0 // indirect
	github.com/mailru/easyjson v0.9.2 // indirect
	golang.org/x/sys v0.43.0 // indirect
	google.golang.org/protobuf v1.36.11 // indirect
)

replace github.com/cloudfoundry/loggregator => ../../..
