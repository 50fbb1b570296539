package drain

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"time"
)

const (
	pollInterval = time.Second
	maxFile      = 64 << 20
)

// Provider is one place that says which drains there shall be: a file, or a
// server that is asked again and again. It is for one Set.
type Provider struct {
	kind     string // file, capi or binding-cache
	name     string // in logs and in Status
	interval time.Duration
	tenants  bool // its URLs come from people whom the operator does not know
	careful  bool // a binding that is missing from an answer may be there all the same

	// fetch gives all bindings there are. That nothing has changed since the
	// last time it may say instead. An error means that nothing is known.
	fetch func(ctx context.Context, list *bindingList) (changed bool, err error)
}

// pause is how long to wait until the next fetch: processes that were started
// together don't ask together for ever.
func (p *Provider) pause() time.Duration {
	if p.interval == pollInterval {
		return p.interval
	}
	return p.interval*4/5 + rand.N(p.interval*2/5+1)
}

// File is the operator's own list:
//
//	{"drains": [
//	  {"source_id": "0d1e2f30-…", "url": "syslog-tls://logs.example.com:6514"},
//	  {"app": "shop", "space": "prod", "url": "syslog://10.0.0.7:514"},
//	  {"url": "syslog://archive:514?drain-data=all", "from": "now"}
//	]}
//
// See Binding for what an entry may hold. The file is looked at every second. What
// is not in it any more is gone: replace the file by renaming a new one onto it.
// While it is missing or broken as a whole the last good bindings stay.
func File(path string) *Provider {
	f := &file{path: path}
	return &Provider{kind: "file", name: "file " + path, interval: pollInterval, fetch: f.fetch}
}

type file struct {
	path    string
	text    []byte // as it was read last
	size    int64
	modTime time.Time
	broken  bool
}

// fetch reads the file if it may have changed. One that was changed within the
// last seconds is read again, for the clock of file systems is coarse.
func (f *file) fetch(_ context.Context, list *bindingList) (changed bool, err error) {
	defer func() { f.broken = err != nil }()
	info, err := os.Stat(f.path)
	if err != nil {
		return false, fmt.Errorf("drain: binding file: %w", err)
	}
	if !f.broken && info.Size() == f.size && info.ModTime().Equal(f.modTime) && time.Since(f.modTime) > 3*time.Second {
		return false, nil
	}
	if info.Size() > maxFile {
		return false, fmt.Errorf("drain: binding file: larger than %d bytes", maxFile)
	}
	text, err := os.ReadFile(f.path)
	if err != nil {
		return false, fmt.Errorf("drain: binding file: %w", err)
	}
	if f.text != nil && bytes.Equal(text, f.text) {
		f.size, f.modTime = info.Size(), info.ModTime()
		return false, nil
	}
	if err := parseBindings(text, list); err != nil {
		return false, err
	}
	f.text, f.size, f.modTime = text, info.Size(), info.ModTime()
	return true, nil
}
