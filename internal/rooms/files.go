package rooms

import (
	"crypto/sha256"
	"flag"
	"os"
)

// sums are the hashes of the files that flags name, apart from those of
// certificates of doors and dialers, which say themselves what has changed.
type sums map[string][sha256.Size]byte

func (p *Process) sums() sums {
	s := make(sums)
	p.Flags.VisitAll(func(f *flag.Flag) {
		what, _ := flag.UnquoteUsage(f)
		if what != "file" || f.Name == "config" || f.Name == "positions" || f.Value.String() == "" || p.certificates[f.Name] {
			return
		}
		if text, err := os.ReadFile(f.Value.String()); err == nil {
			s[f.Name] = sha256.Sum256(text)
		}
	})
	return s
}

// filesChanged says which of them have changed since it was asked last.
func (p *Process) filesChanged(say func(format string, a ...any)) {
	now := p.sums()
	p.Flags.VisitAll(func(f *flag.Flag) {
		is, ok := now[f.Name]
		was, known := p.seen[f.Name]
		switch {
		case !ok || known && is == was:
		case p.follows[f.Name]:
			say("the file of -%s is another one; it is read again of itself", f.Name)
		default:
			say("the file of -%s is another one, which takes a restart", f.Name)
		}
	})
	p.seen = now
}

// followed says of flags that their files are read again of themselves.
func (p *Process) followed(flags ...string) {
	for _, name := range flags {
		p.follows[name] = true
	}
}

// certified says of flags that they are the files of TLS that reloads tell of.
func (p *Process) certified(prefix string, names ...string) {
	for _, name := range names {
		p.certificates[prefix+name] = true
	}
}
