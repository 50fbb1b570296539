package envelope

import (
	"strings"
	"testing"
)

func benchRecord() (Fixed, Envelope) {
	f := Identity{SourceID: "5f6c7a1e-3a3b-4c1d-9e2f-000000000000", InstanceID: "0", Tags: map[string]string{
		TagAppName: "shop-frontend-0", TagSpaceName: "production", TagOrgName: "acme",
		TagAppID: "5f6c7a1e-3a3b-4c1d-9e2f-000000000000", TagSourceType: "APP/PROC/WEB", "process_type": "web",
	}}.Encode()
	e, _, _ := Next(AppendLog(nil, f, 1_700_000_000_000_000_000, Out, []byte(strings.Repeat("x", 200))))
	return f, e
}

func BenchmarkRoute(b *testing.B) {
	_, e := benchRecord()
	b.SetBytes(int64(len(e)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Route(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	_, e := benchRecord()
	r, _ := e.Route()
	for name, trusted := range map[string][]byte{"tags=new": nil, "tags=as before": r.Tags} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(e)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Check(trusted); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendLog(b *testing.B) {
	f, e := benchRecord()
	line := e.Payload()
	buf := make([]byte, 0, 1024)
	b.SetBytes(int64(len(e)))
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendLog(buf[:0], f, 1_700_000_000_000_000_000, Out, line)
	}
}

func BenchmarkAppendText(b *testing.B) {
	_, e := benchRecord()
	r, _ := e.Route()
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = e.AppendText(buf[:0], r.Time().Location(), true)
	}
}
