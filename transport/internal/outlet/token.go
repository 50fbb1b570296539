package outlet

import (
	"net/http"
	"strings"

	"github.com/cloudfoundry/loggregator/transport/access"
)

// Token is a request's token as Loggregator's older APIs take it: in the header
// Authorization, with or without the word bearer before it. Empty: there is none.
func Token(r *http.Request) string {
	if t := access.BearerToken(r); t != "" {
		return t
	}
	if values := r.Header.Values("Authorization"); len(values) == 1 && !strings.Contains(values[0], " ") {
		return values[0]
	}
	return ""
}
