package drain

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cloudfoundry/loggregator/envelope"
)

func TestF05Kinds(t *testing.T) {
	// Of log, event, counter, gauge, timer; by the table of the platform's own
	// drains.
	for query, want := range map[string]string{
		"":                                   "le---",
		"drain-data=logs":                    "le---",
		"drain-type=logs":                    "l----",
		"drain-data=metrics":                 "--cg-",
		"drain-type=metrics":                 "--cg-",
		"drain-type=all":                     "l-cg-",
		"drain-data=traces":                  "----t",
		"drain-data=all":                     "lecgt",
		"drain-type=logs&drain-data=metrics": "--cg-",
		"drain-data=metrics&include-metrics-deprecated=true":   "lecgt",
		"drain-type=logs&include-metrics-deprecated=x":         "lecgt",
		"ssl-strict-internal=true&something-else=1&drain-type": "le---",
	} {
		target, err := parseURL("syslog://host?" + query)
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		got := []byte("lecgt")
		for i, k := range []envelope.Kind{envelope.KindLog, envelope.KindEvent, envelope.KindCounter, envelope.KindGauge, envelope.KindTimer} {
			if !target.filter.kinds[k] {
				got[i] = '-'
			}
		}
		if string(got) != want || target.filter.kinds[envelope.KindNone] {
			t.Errorf("%q: %s, want %s", query, got, want)
		}
	}
}

func TestF20SourceTypes(t *testing.T) {
	for query, want := range map[string][]string{ // which of these are wanted
		"":                                 {"APP/PROC/WEB", "APP", "APPS", "RTR", "", "X"},
		"include-log-source-types=APP,STG": {"APP/PROC/WEB", "APP"},
		"include-source-types=app":         {"APP/PROC/WEB", "APP"},
		"include-log-types=RTR":            {"RTR"},
		"exclude-log-source-types=RTR":     {"APP/PROC/WEB", "APP", "APPS", "", "X"},
		"exclude-source-types=APP, rtr":    {"APPS", "", "X"},
		"exclude-log-types=API":            {"APP/PROC/WEB", "APP", "APPS", "RTR", "", "X"},
	} {
		target, err := parseURL("syslog://host?" + strings.ReplaceAll(query, " ", "%20"))
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		var got []string
		for _, v := range []string{"APP/PROC/WEB", "APP", "APPS", "RTR", "", "X"} {
			id := envelope.Identity{SourceID: "a"}
			if v != "" {
				id.Tags = map[string]string{"source_type": v}
			}
			e := logOf(id, "x")
			r, _ := e.Route()
			if target.filter.wants(e, &r) {
				got = append(got, v)
			}
		}
		if strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
	}
}

func TestF20Filters(t *testing.T) {
	app := shop
	rtr := shop
	rtr.InstanceID, rtr.Tags = "7", map[string]string{"source_type": "RTR"}
	records := map[string]envelope.Envelope{
		"out":   one(envelope.AppendLog(nil, app.Encode(), stamp, envelope.Out, []byte("GET /health"))),
		"err":   one(envelope.AppendLog(nil, app.Encode(), stamp, envelope.Err, []byte("panic: x"))),
		"rtr":   one(envelope.AppendLog(nil, rtr.Encode(), stamp, envelope.Out, []byte("GET / 200"))),
		"event": one(envelope.AppendEvent(nil, app.Encode(), stamp, "t", "b")),
		"gauge": one(envelope.AppendGauge(nil, rtr.Encode(), stamp, envelope.Metric{Name: []byte("cpu")})),
	}
	for query, want := range map[string]string{
		"":                                    "err event out rtr",
		"drain-data=all":                      "err event gauge out rtr",
		"include-streams=err":                 "err event",
		"exclude-streams=ERR":                 "event out rtr",
		"include-instances=0":                 "err event out",
		"exclude-instances=0,1":               "rtr",
		"drain-data=all&include-instances=7":  "gauge rtr",
		"include-envelope-types=event,gauge":  "event gauge",
		"exclude-envelope-types=event":        "err out rtr",
		"include-text=^GET":                   "event out rtr",
		"exclude-text=/health%7C^panic":       "event rtr",
		"include-text=GET&exclude-text=/heal": "event rtr",
		"include-text=[0-9]%2B$&include-log-source-types=RTR": "rtr",
	} {
		target, err := parseURL("syslog://host?" + query)
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		var got []string
		for name, e := range records {
			if r, _ := e.Route(); target.filter.wants(e, &r) {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
	}
}

func TestT12D04URLs(t *testing.T) {
	for raw, want := range map[string]string{
		"syslog://host":                         "syslog://host:514",
		"syslog-tls://u:p@host/secret?x=secret": "syslog-tls://host:6514",
		"syslog://[2001:db8::1]:99":             "syslog://[2001:db8::1]:99",
		"syslog://[2001:db8::1]":                "syslog://[2001:db8::1]:514",
	} {
		target, err := parseURL(raw)
		if err != nil || target.String() != want {
			t.Errorf("%s: %v %v, want %s", raw, target, err, want)
		}
	}
	for _, raw := range []string{
		"", "host:514", "udp://secret", "syslog+tls://secret", "syslog://", "syslog://:514", "syslog://secret:port",
		"syslog://secret%", "syslog://h?drain-data=secret", "syslog://h?drain-type=secret", "syslog://h?disable-metadata=secret",
		"syslog://h?omit-metadata=secret", "syslog://h?include-log-source-types=secret",
		"syslog://h?include-log-source-types=APP&exclude-log-types=RTR",
		"syslog://h?include-log-source-types=APP&include-log-types=RTR", "syslog://h?x=%zzsecret", "syslog://u:secret@h:x",
		"syslog://h:0", "syslog://h:99999", "syslog://sécret.example", "syslog://h?include-streams=secret", "syslog://h?include-text=secret(",
		"syslog://h?include-text=" + strings.Repeat("secret", 200), "syslog://h?exclude-text=(secret){500}", "syslog://h?include-text=%5Ba-z%5D{1,1000}", "syslog://h?include-envelope-types=secret", "syslog://h?include-envelope-types=none",
		"syslog://h?format=secret", "syslog://h?framing=secret", "https://h?framing=lf", "syslog://h?gzip=true", "https://h?gzip=secret",
		"syslog://h?max-message-size=secret", "syslog://h?max-message-size=10", "syslog://h?utf8=secret", "syslog://h?include-instances=1&exclude-instances=secret",
	} {
		_, err := parseURL(raw)
		if !errors.Is(err, ErrURL) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func TestF06Metadata(t *testing.T) {
	for query, want := range map[string]*bool{
		"":                       nil,
		"disable-metadata=true":  new(false),
		"disable-metadata=false": new(true),
		"omit-metadata=true":     new(false),
		"disable-metadata=false&omit-metadata=true": new(true),
	} {
		target, err := parseURL("syslog://host?" + query)
		if err != nil || (target.metadata == nil) != (want == nil) || want != nil && *want != *target.metadata {
			t.Errorf("%q: %v %v", query, target, err)
		}
	}
}

func FuzzURL(f *testing.F) {
	f.Add("syslog://u:p@host:1/p?drain-data=all&include-log-types=APP")
	f.Fuzz(func(t *testing.T, raw string) {
		target, err := parseURL(raw)
		if (target == nil) == (err == nil) || err == nil && target.addr == "" {
			t.Fatalf("%q: %v, %v", raw, target, err)
		}
	})
}
