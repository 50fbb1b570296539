package drains

import (
	"fmt"
	"testing"
)

func TestParsePorts(t *testing.T) {
	for text, want := range map[string]string{
		"":                    "[] <nil>",
		"443":                 "[[443 443]] <nil>",
		"443, 514,1024-65535": "[[443 443] [514 514] [1024 65535]] <nil>",
		"0-0":                 "[[0 0]] <nil>",
		"x":                   `[] -drains-ports: "x" is no port like 443 and no range like 1024-65535`,
		"65536":               `[] -drains-ports: "65536" is no port like 443 and no range like 1024-65535`,
		"2-1":                 `[] -drains-ports: "2-1" is no port like 443 and no range like 1024-65535`,
		"443,":                `[] -drains-ports: "" is no port like 443 and no range like 1024-65535`,
	} {
		list, err := parsePorts(text)
		if got := fmt.Sprint(list, " ", err); got != want {
			t.Errorf("%q: %s", text, got)
		}
	}
}

func TestParseNetworks(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "[] <nil>",
		"10.1.0.0/16, fd00::/8,::1": "[10.1.0.0/16 fd00::/8 ::1/128] <nil>",
		"10.1.0.0/33":               `[] -drains-allow: "10.1.0.0/33" is no network like 10.1.0.0/16`,
	} {
		list, err := parseNetworks(text)
		if got := fmt.Sprint(list, " ", err); got != want {
			t.Errorf("%q: %s", text, got)
		}
	}
}

func TestPositionsFile(t *testing.T) {
	for _, tc := range []struct {
		f    Flags
		want string
	}{
		{Flags{File: "d.json", Positions: Beside}, "d.json.positions"},
		{Flags{CAPI: "https://cloud", Positions: Beside}, ""},
		{Flags{File: "d.json", Positions: "p"}, "p"},
		{Flags{File: "d.json"}, ""},
	} {
		if got := tc.f.PositionsFile(); got != tc.want {
			t.Errorf("%+v: %q", tc.f, got)
		}
	}
}
