package daemon

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/peterbourgon/ff/v3"
	"go.yaml.in/yaml/v3"
)

// EnvPrefix begins the environment variable of every flag: -http is also
// LOGGREGATOR_HTTP.
const EnvPrefix = "LOGGREGATOR"

// Parse fills fs from the arguments, then, for flags not given there, from the
// environment, then from the YAML file that -config names: one key a flag, as
// "http: 127.0.0.1:8080", where a list stands for values with commas between.
// Daemons may share a file: others are the flags that are not of this one, and
// that it passes over there. On -help it returns flag.ErrHelp after fs has printed
// its usage.
func Parse(fs *flag.FlagSet, args []string, others ...string) error {
	fs.String("config", "", "YAML `file` with one \"flag: value\" a line, for flags given neither here nor in the environment")
	err := parse(fs, args, others)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		return &Exit{Code: StatusUsage, Err: err}
	}
	return err
}

func parse(fs *flag.FlagSet, args, others []string) error {
	out := fs.Output()
	fs.SetOutput(io.Discard) // errors are told once, by the caller; so is help
	defer fs.SetOutput(out)
	err := ff.Parse(fs, args,
		ff.WithEnvVarPrefix(EnvPrefix),
		ff.WithConfigFileFlag("config"),
		ff.WithConfigFileParser(func(r io.Reader, set func(name, value string) error) error {
			return parseYAML(r, func(name, value string) error {
				if fs.Lookup(name) == nil && slices.Contains(others, name) {
					return nil
				}
				if fs.Lookup(name) == nil {
					return fmt.Errorf("there is no flag of this name")
				}
				return set(name, value)
			})
		}),
	)
	if errors.Is(err, flag.ErrHelp) {
		fs.SetOutput(out)
		fs.Usage()
		return flag.ErrHelp
	}
	return err
}

// maxConfig bounds a config file, in bytes.
const maxConfig = 1 << 20

// parseYAML reads "flag: value" and gives set each.
func parseYAML(r io.Reader, set func(name, value string) error) error {
	text, err := io.ReadAll(io.LimitReader(r, maxConfig+1))
	if err != nil {
		return fmt.Errorf("-config: %w", err)
	}
	if len(text) > maxConfig {
		return fmt.Errorf("-config: the file is longer than %d KiB", maxConfig>>10)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return fmt.Errorf("-config: %w", err)
	}
	if len(doc.Content) == 0 {
		return nil
	}
	top := doc.Content[0]
	if top.Tag == "!!null" {
		return nil
	}
	if top.Kind != yaml.MappingNode {
		return fmt.Errorf("-config: line %d: lines like \"http: 127.0.0.1:8080\" are wanted", top.Line)
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, node := top.Content[i], top.Content[i+1]
		value, err := scalar(node)
		switch {
		case err == nil && seen[key.Value]:
			err = errors.New("is given twice")
		case err == nil:
			err = set(key.Value, value)
		}
		if err != nil {
			return fmt.Errorf("-config: line %d: %s: %w", key.Line, key.Value, err)
		}
		seen[key.Value] = true
	}
	return nil
}

// scalar is a value as a flag takes it.
func scalar(n *yaml.Node) (string, error) {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return "", nil
	case n.Kind == yaml.ScalarNode:
		return n.Value, nil
	case n.Kind == yaml.SequenceNode:
		items := make([]string, len(n.Content))
		for i, item := range n.Content {
			if item.Kind != yaml.ScalarNode {
				return "", errors.New("a list of plain values is wanted")
			}
			items[i] = item.Value
		}
		return strings.Join(items, ","), nil
	}
	return "", errors.New("a plain value or a list of such is wanted")
}

// Usage prints text, then the flags with their environment variables.
func Usage(fs *flag.FlagSet, text string) func() {
	return func() {
		out := fs.Output()
		fmt.Fprintf(out, "%s\nFlags (each also an environment variable, as -http is %s_HTTP):\n", text, EnvPrefix)
		fs.PrintDefaults()
	}
}

// Show writes the values of all flags as a config file, without what is secret in
// them.
func Show(w io.Writer, fs *flag.FlagSet) {
	fs.VisitAll(func(f *flag.Flag) {
		if f.Name == "config" || f.Name == "version" {
			return
		}
		value := any(Redact(f))
		if n, err := strconv.ParseInt(f.Value.String(), 10, 64); err == nil {
			value = n
		} else if b, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
			value = f.Value.String() == "true"
		}
		line, err := yaml.Marshal(map[string]any{f.Name: value})
		if err != nil {
			line = fmt.Appendf(nil, "%s: %q\n", f.Name, value)
		}
		if f.Value.String() == f.DefValue {
			line = append(line[:len(line)-1], "  # default\n"...)
		}
		w.Write(line)
	})
}

// Given lists the flags that are not as by default, as name, value, name, value …,
// for a log. Nothing secret is in it.
func Given(fs *flag.FlagSet) (list []any) {
	fs.VisitAll(func(f *flag.Flag) {
		if f.Value.String() != f.DefValue {
			list = append(list, f.Name, Redact(f))
		}
	})
	return list
}

var (
	userinfo = regexp.MustCompile(`://[^/@\s,?#]*@`)
	query    = regexp.MustCompile(`([?&][^=&\s,]*=)[^&\s,#]+`)
)

const redacted = "REDACTED"

// Redact is a flag's value without what may be secret: the value of a flag that
// is named for one, unless it is the name of a file; the user and the parameters
// of a URL.
func Redact(f *flag.Flag) string {
	value := f.Value.String()
	what, _ := flag.UnquoteUsage(f)
	if value != "" && what != "file" {
		for _, word := range []string{"secret", "password", "token"} {
			if what == word || strings.HasSuffix(f.Name, word) {
				return redacted
			}
		}
	}
	if strings.Contains(value, "://") {
		value = userinfo.ReplaceAllString(value, "://"+redacted+"@")
		value = query.ReplaceAllString(value, "${1}"+redacted)
	}
	return value
}

// Change is a flag whose value is another one now.
type Change struct {
	Flag     *flag.Flag // as it was
	Value    string     // as it is now
	Was, Now string     // both for people: without what is secret
}

// Changes parses args, environment and config file once more, and says what is
// different from the values that fs has. fs stays as it is.
func Changes(fs *flag.FlagSet, args []string, others ...string) ([]Change, error) {
	again := flag.NewFlagSet(fs.Name(), flag.ContinueOnError)
	fs.VisitAll(func(f *flag.Flag) {
		// A value of the same type, as package flag makes one to know the zero value.
		v := reflect.New(reflect.TypeOf(f.Value).Elem()).Interface().(flag.Value)
		v.Set(f.DefValue)
		again.Var(v, f.Name, f.Usage)
	})
	if err := parse(again, args, others); err != nil {
		return nil, err
	}
	var list []Change
	fs.VisitAll(func(f *flag.Flag) {
		if now := again.Lookup(f.Name); now.Value.String() != f.Value.String() {
			list = append(list, Change{Flag: f, Value: now.Value.String(), Was: Redact(f), Now: Redact(now)})
		}
	})
	return list, nil
}

// Size is a flag of bytes: a number, or one with KiB, MiB or GiB behind it.
type Size int64

var units = map[string]int64{"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

func (s *Size) String() string {
	n := int64(*s)
	for _, unit := range slices.SortedFunc(maps.Keys(units), func(a, b string) int { return cmp.Compare(units[b], units[a]) }) {
		if unit != "" && unit != "B" && n != 0 && n%units[unit] == 0 {
			return fmt.Sprintf("%d%s", n/units[unit], unit)
		}
	}
	return fmt.Sprint(n)
}

// Set takes what String gives.
func (s *Size) Set(text string) error {
	unit := strings.TrimLeft(text, "0123456789")
	n, err := strconv.ParseInt(text[:len(text)-len(unit)], 10, 64)
	times, ok := units[unit]
	if err != nil || !ok || n > math.MaxInt64/times {
		return errors.New("a size like 67108864 or 64MiB is wanted")
	}
	*s = Size(n * times)
	return nil
}

// SizeVar adds a Size to fs.
func SizeVar(fs *flag.FlagSet, p *int64, name string, value int64, usage string) {
	*p = value
	fs.Var((*Size)(p), name, usage)
}
