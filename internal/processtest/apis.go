package processtest

import (
	"bufio"
	"context"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
)

// EveryAPI reads line, of source, by each of the APIs at the people's port.
func EveryAPI(t testing.TB, address, source, line string) {
	t.Helper()
	in64 := base64.StdEncoding.EncodeToString([]byte(line))
	for path, want := range map[string]string{
		"/v1/recent?source_id=" + source:   line,
		"/v1/tail?lines=1&app=" + source:   line,
		"/api/v1/info":                     `"version"`,
		"/api/v1/meta":                     source,
		"/api/v1/read/" + source:           in64,
		"/v2/read?log&source_id=" + source: "id:", // it begins now
		"/apps/" + source + "/recentlogs":  line,
	} {
		ctx, cancel := context.WithTimeout(context.Background(), Limit)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		var seen strings.Builder
		for lines := bufio.NewReader(resp.Body); !strings.Contains(seen.String(), want); {
			part, err := lines.ReadString('\n')
			seen.WriteString(part)
			if err != nil {
				break
			}
		}
		if resp.StatusCode != http.StatusOK || !strings.Contains(seen.String(), want) {
			t.Errorf("%s: %s, and no %q in\n%.1000s", path, resp.Status, want, &seen)
		}
		cancel()
		resp.Body.Close()
	}
}
