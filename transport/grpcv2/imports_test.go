package grpcv2

import (
	"os/exec"
	"strings"
	"testing"
)

// TestNobodyElseLinksGRPC: who imports what a program embeds, but not this
// package, does not link gRPC. And this package registers no messages of its own,
// so that the stock client's can be linked besides.
func TestNobodyElseLinksGRPC(t *testing.T) {
	deps := func(packages ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "go", append([]string{"list", "-deps"}, packages...)...).Output()
		if err != nil {
			t.Skipf("go list: %v", err)
		}
		return string(out)
	}
	const module = "github.com/cloudfoundry/loggregator"
	for _, p := range []string{"", "/envelope", "/ringbuf", "/emitter", "/drain", "/transport", "/transport/access", "/transport/httpapi", "/transport/httpclient"} {
		for dep := range strings.Lines(deps(module + p)) {
			if strings.HasPrefix(dep, "google.golang.org/grpc") {
				t.Errorf("%s links %s", module+p, dep)
				break
			}
		}
	}
	if own := deps(module + "/transport/grpcv2"); strings.Contains(own, "envelopepb") || strings.Contains(own, "loggregator_v2") {
		t.Error("grpcv2 links generated messages")
	}
}
