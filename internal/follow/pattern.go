package follow

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// Pattern describes paths. It is a path in which
//
//   - stands for any text without a slash
//     ?       for any one character but a slash
//     [a-z]   for one of these characters, [!a-z] for any other
//     {name}  for any text of at least one character without a slash, which is
//     remembered under this name
//     **      alone between two slashes, for any directories, or none
//
// A wildcard at the beginning of a name does not match a dot there.
type Pattern struct {
	text string
	root string // where it begins: the longest part without a wildcard
	segs []segment
}

// segment is what a pattern says of one name in a path.
type segment struct {
	text   string         // as it was written
	re     *regexp.Regexp // nil without a wildcard
	any    bool           // **
	hidden bool           // may match a name that begins with a dot
}

var nameRE = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// ParsePattern reads a pattern. A relative one is taken from the working
// directory.
func ParsePattern(s string) (*Pattern, error) {
	if s == "" {
		return nil, errors.New("a path is missing")
	}
	if strings.ContainsRune(s, 0) {
		return nil, fmt.Errorf("path %q: holds a NUL", s)
	}
	p := &Pattern{text: s}
	path := filepath.ToSlash(s)
	if !filepath.IsAbs(s) {
		dir, err := filepath.Abs(".")
		if err != nil {
			return nil, err
		}
		p.root = dir
	} else {
		volume := filepath.VolumeName(s)
		p.root = volume + string(filepath.Separator)
		path = strings.TrimPrefix(path, filepath.ToSlash(volume))
	}
	seen := make(map[string]bool)
	literal := true
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			return nil, fmt.Errorf("path %q: write it without %q", s, "..")
		}
		seg, err := parseSegment(name, seen)
		if err != nil {
			return nil, fmt.Errorf("path %q: %w", s, err)
		}
		p.segs = append(p.segs, seg)
		literal = literal && seg.re == nil && !seg.any
	}
	if len(p.segs) == 0 || p.segs[len(p.segs)-1].any {
		return nil, fmt.Errorf("path %q: names no file; for all files below a directory end with /**/*", s)
	}
	for len(p.segs) > 1 && p.segs[0].re == nil && !p.segs[0].any {
		p.root = filepath.Join(p.root, p.segs[0].text)
		p.segs = p.segs[1:]
	}
	return p, nil
}

func parseSegment(name string, seen map[string]bool) (segment, error) {
	if name == "**" {
		return segment{any: true}, nil
	}
	if strings.Contains(name, "**") {
		return segment{}, errors.New("** stands alone between two slashes")
	}
	if !strings.ContainsAny(name, "*?[{") {
		return segment{text: name}, nil
	}
	seg := segment{text: name, hidden: name[0] == '.'}
	var re strings.Builder
	re.WriteString(`(?s)^`)
	for i := 0; i < len(name); {
		switch c := name[i]; c {
		case '*':
			re.WriteString(`.*`)
		case '?':
			re.WriteString(`.`)
		case '[':
			end := strings.IndexByte(name[i+1:], ']')
			if end < 1 {
				return seg, errors.New("[ without its ]")
			}
			class := strings.ReplaceAll(name[i+1:i+1+end], `\`, `\\`)
			class = strings.ReplaceAll(class, `[`, `\[`)
			if class[0] == '!' {
				class = "^" + class[1:]
			}
			re.WriteString("[" + class + "]")
			i += end + 1
		case '{':
			end := strings.IndexByte(name[i:], '}')
			if end < 0 {
				return seg, errors.New("{ without its }")
			}
			key := name[i+1 : i+end]
			if !nameRE.MatchString(key) {
				return seg, fmt.Errorf("{%s}: a name in braces is small letters, digits and _", key)
			}
			if seen[key] {
				return seg, fmt.Errorf("{%s} is there twice", key)
			}
			seen[key] = true
			re.WriteString(`(?P<` + key + `>.+)`)
			i += end
		default:
			n := i + 1
			for n < len(name) && !strings.ContainsRune("*?[{", rune(name[n])) {
				n++
			}
			re.WriteString(regexp.QuoteMeta(name[i:n]))
			i = n - 1
		}
		i++
	}
	re.WriteString(`$`)
	var err error
	seg.re, err = regexp.Compile(re.String())
	if err != nil {
		return seg, fmt.Errorf("%q is not a pattern", name)
	}
	return seg, nil
}

// String is the pattern as it was written.
func (p *Pattern) String() string { return p.text }

// Names are those that the pattern remembers.
func (p *Pattern) Names() []string {
	var names []string
	for _, seg := range p.segs {
		if seg.re != nil {
			for _, name := range seg.re.SubexpNames() {
				if name != "" {
					names = append(names, name)
				}
			}
		}
	}
	return names
}

// Example is a path that the pattern describes, if its wildcards allow for it:
// {name} stands for NAME.
func (p *Pattern) Example() string {
	path := p.root
	for _, seg := range p.segs {
		if !seg.any {
			path = filepath.Join(path, seg.example())
		}
	}
	return path
}

// ExampleVars is what the pattern remembers of Example.
func (p *Pattern) ExampleVars() map[string]string {
	vars := make(map[string]string)
	for _, name := range p.Names() {
		vars[name] = strings.ToUpper(name)
	}
	return vars
}

var wildcardRE = regexp.MustCompile(`\{[^}]*\}|\*|\?`)

func (s *segment) example() string {
	return wildcardRE.ReplaceAllStringFunc(s.text, func(w string) string {
		if w[0] == '{' {
			return strings.ToUpper(w[1 : len(w)-1])
		}
		return "x"
	})
}

// match reports whether the segment describes the name, and adds to vars what
// it remembers.
func (s *segment) match(name string, vars map[string]string) (map[string]string, bool) {
	if s.re == nil {
		return vars, name == s.text
	}
	if name[0] == '.' && !s.hidden {
		return vars, false
	}
	m := s.re.FindStringSubmatch(name)
	if m == nil {
		return vars, false
	}
	if len(m) > 1 {
		longer := make(map[string]string, len(vars)+len(m)-1)
		for k, v := range vars {
			longer[k] = v
		}
		for i, k := range s.re.SubexpNames() {
			if k != "" {
				longer[k] = m[i]
			}
		}
		vars = longer
	}
	return vars, true
}

// maxDepth bounds how deep ** looks, for trees that link to themselves.
const maxDepth = 24

// walk calls found for each file that the pattern describes. Directories are
// listed by list, which answers nothing for those that cannot be read.
func (p *Pattern) walk(list func(dir string) []entry, found func(dir string, e *entry, vars map[string]string)) {
	w := walker{list, found, false}
	w.walk(p.root, p.segs, nil, 0)
}

// walkDirs calls found for each directory that the pattern describes.
func (p *Pattern) walkDirs(list func(dir string) []entry, found func(dir string, e *entry, vars map[string]string)) {
	w := walker{list, found, true}
	w.walk(p.root, p.segs, nil, 0)
}

type walker struct {
	list  func(dir string) []entry
	found func(dir string, e *entry, vars map[string]string)
	dirs  bool // are looked for, not files
}

func (w *walker) walk(dir string, segs []segment, vars map[string]string, depth int) {
	if depth > maxDepth {
		return
	}
	seg, last := &segs[0], len(segs) == 1
	entries := w.list(dir)
	for i := range entries {
		e := &entries[i]
		if seg.any {
			if e.dir && e.name[0] != '.' {
				w.walk(filepath.Join(dir, e.name), segs, vars, depth+1)
			}
			continue
		}
		if e.dir != (!last || w.dirs) {
			continue
		}
		vars, ok := seg.match(e.name, vars)
		switch {
		case !ok:
		case last:
			w.found(dir, e, vars)
		default:
			w.walk(filepath.Join(dir, e.name), segs[1:], vars, depth+1)
		}
	}
	if seg.any {
		w.walk(dir, segs[1:], vars, depth+1)
	}
}
