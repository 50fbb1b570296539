module github.com/cloudfoundry/loggregator/internal/interop

go 1.26

require (
	github.com/cloudfoundry/dropsonde v1.1.0
	github.com/cloudfoundry/loggregator v0.0.0
	github.com/cloudfoundry/sonde-go v0.0.0-20220627221915-ff36de9c3435
)

require (
	github.com/josharian/intern v1.0.0 // indirect
	github.com/mailru/easyjson v0.7.7 // indirect
	github.com/nu7hatch/gouuid v0.0.0-20131221200532-179d4d0c4d8d // indirect
	golang.org/x/sys v0.38.0 // indirect
	google.golang.org/protobuf v1.36.11 // indirect
)

replace github.com/cloudfoundry/loggregator => ../..
