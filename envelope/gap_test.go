package envelope

import "testing"

func TestGap(t *testing.T) {
	named := Identity{SourceID: "guid", Tags: map[string]string{TagAppName: "web"}}.Encode()
	record := AppendLog(nil, named, 1, Out, []byte("x"))
	unnamed := AppendLog(nil, Identity{SourceID: "router"}.Encode(), 1, Out, []byte("x"))
	const reset = "-- lines missed, their number is not known: the server was started anew --\n"
	for _, tt := range []struct {
		name             string
		b                Batch
		text, app, jsons string
	}{
		{"none", Batch{Records: record, Count: 1}, "", "", ""},
		{"one", Batch{Missed: 1}, "-- 1 line missed --\n", "-- 1 line missed --\n", `{"type":"missed","missed":1}` + "\n"},
		{"many", Batch{Records: record, Count: 1, Missed: 123}, "-- 123 lines missed --\n", "web -- 123 lines missed --\n",
			`{"type":"missed","missed":123,"source_id":"guid"}` + "\n"},
		{"reset", Batch{Reset: true}, reset, reset, `{"type":"reset"}` + "\n"},
		{"both", Batch{Records: unnamed, Count: 1, Missed: 2, Reset: true}, reset + "-- 2 lines missed --\n",
			"router " + reset + "router -- 2 lines missed --\n",
			`{"type":"reset","source_id":"router"}` + "\n" + `{"type":"missed","missed":2,"source_id":"router"}` + "\n"},
		{"malformed", Batch{Records: []byte{0xff}, Count: 1, Missed: 2}, "-- 2 lines missed --\n", "-- 2 lines missed --\n",
			`{"type":"missed","missed":2}` + "\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(tt.b.AppendGapText(nil, false)); got != tt.text {
				t.Errorf("text %q, want %q", got, tt.text)
			}
			if got := string(tt.b.AppendGapText(nil, true)); got != tt.app {
				t.Errorf("text with app %q, want %q", got, tt.app)
			}
			if got := string(tt.b.AppendGapJSON(nil)); got != tt.jsons {
				t.Errorf("JSON %q, want %q", got, tt.jsons)
			}
		})
	}
}

func TestMissedText(t *testing.T) {
	id := Identity{SourceID: "guid", Tags: map[string]string{TagAppName: "web"}}.Encode()
	e, _, _ := Next(AppendMissed(nil, id, 1, 7, "receiver away"))
	if got, ok := e.AppendMissedText(nil, true); !ok || string(got) != "web -- 7 lines missed: receiver away --\n" {
		t.Errorf("%q %v", got, ok)
	}
	for _, typ := range []LogType{Out, Err} {
		plain, _, _ := Next(AppendLog(nil, id, 1, typ, []byte("x")))
		if got, ok := plain.AppendMissedText(nil, false); ok || len(got) > 0 {
			t.Errorf("%v: %q %v", typ, got, ok)
		}
	}
}
