package transport

import (
	"errors"
	"strings"
	"testing"
)

func TestAddress(t *testing.T) {
	for in, want := range map[string]string{
		"tcp://127.0.0.1:3456":    "tcp://127.0.0.1:3456",
		"tcp://[::1]:3456/":       "tcp://[::1]:3456",
		"tls://logs.example:443":  "tls://logs.example:443",
		"unix:///run/logs.sock":   "unix:///run/logs.sock",
		"udp://127.0.0.1:3456":    "udp://127.0.0.1:3456",
		"udp://h:1,tcp://h:1":     "",
		"udp://h":                 "",
		"":                        "",
		"127.0.0.1:3456":          "",
		"tcp://127.0.0.1":         "",
		"tcp://:3456":             "",
		"tcp://host:0":            "",
		"tcp://host:65536":        "",
		"tcp://host:port":         "",
		"tcp://host:1/path":       "",
		"http://host:80":          "",
		"unix://run/logs.sock":    "",
		"unix:///":                "",
		"tcp://user:s3cret@h:1":   "",
		"tcp://h:1?token=s3cret":  "",
		"tcp://h:1,tcp://s3cret":  "",
		"tcp://h:1\x00s3cret":     "",
		"tcp://h:1,":              "",
		"tcp://h s3cret:1":        "",
		"tcp://[::1:s3cret":       "",
		"unix://s3cret@/run/sock": "",
	} {
		ts, err := parseTargets(in)
		switch {
		case want == "" && (err == nil || !errors.Is(err, ErrAddress) || strings.Contains(err.Error(), "s3cret")):
			t.Errorf("%q: %v, %v", in, ts, err)
		case want != "" && (err != nil || ts[0].String() != want):
			t.Errorf("%q: %v, %v", in, ts, err)
		}
	}
	if ts, err := parseTargets("tcp://h:1,tcp://h:2,tcp://h:1"); len(ts) != 2 || err != nil {
		t.Errorf("%v, %v", ts, err)
	}
	if _, err := NewLink("nonsense", newRings(1), nil); !errors.Is(err, ErrAddress) {
		t.Errorf("NewLink: %v", err)
	}
}
