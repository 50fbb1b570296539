package access_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/httpapi"
)

// A server of logs that lets the bearers of some tokens read.
func Example() {
	const token = "ann's token, made by a machine"
	dir, err := os.MkdirTemp("", "access")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "tokens.json")
	text := fmt.Sprintf(`{"tokens": [{"user": "ann", "sha256": "%x", "read": [{"app": "shop"}]}]}`, sha256.Sum256([]byte(token)))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		log.Fatal(err)
	}

	router := loggregator.New(nil)
	defer router.Close()
	tokens, err := access.OpenTokens(file, nil)
	if err != nil {
		log.Fatal(err)
	}
	gate := access.NewGate(router, tokens, nil)
	handler := httpapi.New(gate, nil)
	defer handler.Close()
	server := httptest.NewServer(handler)
	defer server.Close()

	for _, app := range []string{"shop", "bank"} {
		e := emitter.New(router, envelope.Identity{SourceID: app}, nil)
		e.Log(envelope.Out, "hello from "+app)
		e.Close()
	}
	for _, app := range []string{"shop", "bank"} {
		req, err := http.NewRequest(http.MethodGet, server.URL+"/v1/recent?app="+app, nil)
		if err != nil {
			log.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(app, resp.StatusCode, len(body) > 0)
	}
	// Output:
	// shop 200 true
	// bank 404 true
}
