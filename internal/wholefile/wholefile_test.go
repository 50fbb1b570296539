package wholefile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	text := func(s string, err error) func(io.Writer) error {
		return func(w io.Writer) error {
			io.WriteString(w, s)
			return err
		}
	}
	broken := errors.New("broken")
	for _, tt := range []struct {
		write func(io.Writer) error
		err   error
		want  string
	}{{text("one", nil), nil, "one"}, {text("two, longer", nil), nil, "two, longer"}, {text("three", broken), broken, "two, longer"}, {text("4", nil), nil, "4"}} {
		if err := Write(path, tt.write); err != tt.err {
			t.Errorf("%v, want %v", err, tt.err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != tt.want {
			t.Errorf("%q %v, want %q", got, err, tt.want)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 1 || entries[0].Name() != "file" {
			t.Errorf("%v are left", entries)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if err := Write(filepath.Join(dir, "no", "file"), text("", nil)); err == nil {
		t.Error("a file in a directory that is not there")
	}
}
