package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/follow"
)

// config is what the file of the daemon says. See example.yaml.
type config struct {
	Servers strs              `yaml:"servers"`
	TLS     tlsConfig         `yaml:"tls"`
	Memory  size              `yaml:"memory"`
	Dir     string            `yaml:"memory_dir"`
	State   string            `yaml:"state"`
	Poll    duration          `yaml:"poll"`
	PollAll bool              `yaml:"poll_only"`
	MaxOpen int               `yaml:"max_open_files"`
	Ops     string            `yaml:"ops"`
	Log     logConfig         `yaml:"log"`
	Grace   duration          `yaml:"grace"`
	Tags    map[string]string `yaml:"tags"`

	Insecure bool `yaml:"insecure"`

	Files     []filesConfig     `yaml:"files"`
	Sockets   []socketsConfig   `yaml:"sockets"`
	Native    []nativeConfig    `yaml:"native"`
	Syslog    []syslogConfig    `yaml:"syslog"`
	Logplex   []logplexConfig   `yaml:"logplex"`
	Dropsonde []dropsondeConfig `yaml:"dropsonde"`
	GRPC      []grpcConfig      `yaml:"grpc"`
}

type logConfig struct {
	Format string `yaml:"format"`
	Level  string `yaml:"level"`
}

// flags are the same as other daemons'.
func (l logConfig) flags() *daemon.LogFlags {
	var f daemon.LogFlags
	f.Set(l.Format, l.Level)
	return &f
}

func (l logConfig) check() error {
	if _, err := l.flags().Logger(io.Discard); err != nil {
		return errors.New("log: " + strings.ReplaceAll(strings.TrimPrefix(err.Error(), "-log-"), ": ", " "))
	}
	return nil
}

type tlsConfig struct {
	CA   string `yaml:"ca"`
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

type limitConfig struct {
	Rate  size `yaml:"rate"`
	Burst size `yaml:"burst"`
}

type filesConfig struct {
	Name       string     `yaml:"name"`
	Paths      patterns   `yaml:"paths"`
	Exclude    strs       `yaml:"exclude"`
	Match      *pattern   `yaml:"match"`
	Start      string     `yaml:"start"`
	Join       joinConfig `yaml:"join"`
	MaxLine    size       `yaml:"max_line"`
	Stream     string     `yaml:"stream"`
	ruleConfig `yaml:",inline"`
	Limit      limitConfig `yaml:"limit"`
}

type joinConfig struct {
	Start    *pattern `yaml:"start"`
	Continue *pattern `yaml:"continue"`
	Indent   bool     `yaml:"indent"`
	MaxBytes size     `yaml:"max_bytes"`
	MaxLines int      `yaml:"max_lines"`
	Wait     duration `yaml:"wait"`
}

type socketsConfig struct {
	Name       string   `yaml:"name"`
	Dirs       patterns `yaml:"directories"`
	Instances  string   `yaml:"instances"`
	Match      *pattern `yaml:"match"`
	MaxLine    size     `yaml:"max_line"`
	ruleConfig `yaml:",inline"`
	Limit      limitConfig `yaml:"limit"`
}

type nativeConfig struct {
	Listen  address   `yaml:"listen"`
	TLS     tlsConfig `yaml:"tls"`
	Secrets string    `yaml:"secrets_file"`
}

type syslogConfig struct {
	Name       string    `yaml:"name"`
	Listen     address   `yaml:"listen"`
	TLS        tlsConfig `yaml:"tls"`
	ruleConfig `yaml:",inline"`
	Limit      limitConfig `yaml:"limit"`
}

type logplexConfig struct {
	Name       string    `yaml:"name"`
	Listen     address   `yaml:"listen"`
	TLS        tlsConfig `yaml:"tls"`
	Tokens     string    `yaml:"tokens_file"`
	ruleConfig `yaml:",inline"`
	Limit      limitConfig `yaml:"limit"`
}

type grpcConfig struct {
	Listen address     `yaml:"listen"`
	TLS    tlsConfig   `yaml:"tls"`
	Limit  limitConfig `yaml:"limit"`
}

type dropsondeConfig struct {
	Listen     address     `yaml:"listen"`
	Secrets    string      `yaml:"secrets_file"`
	Deployment string      `yaml:"deployment"`
	Job        string      `yaml:"job"`
	Index      string      `yaml:"index"`
	IP         string      `yaml:"ip"`
	Limit      limitConfig `yaml:"limit"`
}

// Defaults of config.
const (
	defaultServer = "tcp://127.0.0.1:3456"
	defaultMemory = 64 << 20
	defaultGrace  = 10 * time.Second
)

// size is bytes: 200000, 64KiB, 10 MB.
type size int64

var sizeRE = regexp.MustCompile(`^(\d+(?:\.\d+)?) ?([kKMGT]?)(i?)[bB]?$`)

func parseSize(s string) (size, error) {
	m := sizeRE.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%q is no number of bytes, as 200000, 64KiB or 10MB", s)
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, fmt.Errorf("%q is no number of bytes", s)
	}
	unit := 1000.0
	if m[3] != "" {
		unit = 1024
	}
	if m[2] != "" {
		n *= math.Pow(unit, float64(1+strings.Index("KMGT", strings.ToUpper(m[2]))))
	}
	if n > 1<<50 {
		return 0, fmt.Errorf("%q is too much", s)
	}
	return size(n), nil
}

func (z *size) UnmarshalYAML(n *yaml.Node) error {
	var err error
	*z, err = parseSize(n.Value)
	return at(n, err)
}

// duration is a time.Duration: 500ms, 10s, 1h.
type duration time.Duration

func (d duration) std() time.Duration { return time.Duration(d) }

func (d *duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err == nil && v < 0 {
		err = errors.New("negative")
	}
	if err != nil {
		return at(n, fmt.Errorf("%q is no duration, as 500ms, 10s or 1h", n.Value))
	}
	*d = duration(v)
	return nil
}

// pattern is a regular expression.
type pattern struct{ *regexp.Regexp }

func (p *pattern) UnmarshalYAML(n *yaml.Node) error {
	var err error
	if p.Regexp, err = regexp.Compile(n.Value); err != nil {
		return at(n, fmt.Errorf("%q is no regular expression: %w", n.Value, err))
	}
	return nil
}

// strs is one string or a list.
type strs []string

func (s *strs) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*s = strs{n.Value}
		return nil
	}
	var list []string
	if err := n.Decode(&list); err != nil {
		return at(n, errors.New("a text, or a list of texts, is wanted here"))
	}
	*s = list
	return nil
}

// patterns are paths.
type patterns []*follow.Pattern

func (p *patterns) UnmarshalYAML(n *yaml.Node) error {
	var list strs
	if err := list.UnmarshalYAML(n); err != nil {
		return err
	}
	for _, text := range list {
		one, err := follow.ParsePattern(text)
		if err != nil {
			return at(n, err)
		}
		*p = append(*p, one)
	}
	return nil
}

// address is where a listener listens: tcp://host:port, tls://, udp://, http://,
// https://, unix:///path, unixgram:///path.
type address struct {
	scheme, place string
}

func (a address) String() string { return a.scheme + "://" + a.place }

func (a *address) UnmarshalYAML(n *yaml.Node) error {
	bad := at(n, fmt.Errorf("%q is no address to listen at, as tcp://127.0.0.1:3455 or unix:///run/agent.sock", n.Value))
	u, err := url.Parse(n.Value)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return bad
	}
	switch u.Scheme {
	case "unix", "unixgram":
		if u.Host != "" || !strings.HasPrefix(u.Path, "/") || u.Path == "/" {
			return bad
		}
		*a = address{u.Scheme, u.Path}
	case "tcp", "tls", "udp", "http", "https":
		if _, _, err := net.SplitHostPort(u.Host); err != nil || u.Path != "" && u.Path != "/" {
			return bad
		}
		*a = address{u.Scheme, u.Host}
	default:
		return bad
	}
	return nil
}

// atLine is an error in a line of the file.
type atLine struct {
	line int
	err  error
}

func (e *atLine) Error() string { return fmt.Sprintf("line %d: %v", e.line, e.err) }
func (e *atLine) Unwrap() error { return e.err }

// at is err in the line of n, in the form in which the YAML library gathers such
// errors.
func at(n *yaml.Node, err error) error {
	if err == nil {
		return nil
	}
	return &yaml.TypeError{Errors: []string{(&atLine{n.Line, err}).Error()}}
}

// loadConfig reads and checks a file. Its error is one sentence a line, each with
// the file's name and, where there is one, the line.
func loadConfig(path string) (*config, error) {
	data, err := readConfig(path)
	if err != nil {
		return nil, err
	}
	c, errs := parseConfig(data)
	if len(errs) == 0 {
		return c, nil
	}
	slices.SortStableFunc(errs, func(a, b error) int { return cmp.Compare(lineOf(a), lineOf(b)) })
	for i, err := range errs {
		if line, ok := errors.AsType[*atLine](err); ok {
			errs[i] = fmt.Errorf("%s:%d: %w", path, line.line, line.err)
		} else {
			errs[i] = fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil, errors.Join(errs...)
}

func lineOf(err error) int {
	if line, ok := errors.AsType[*atLine](err); ok {
		return line.line
	}
	return 0
}

const maxConfig = 4 << 20

func readConfig(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(data) > maxConfig {
		err = fmt.Errorf("%s: larger than %d bytes", path, maxConfig)
	}
	return data, err
}

func parseConfig(data []byte) (*config, []error) {
	c := &config{}
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		hint := ""
		if bytes.ContainsRune(data, '{') {
			hint = "; a text with braces in it wants quotes in a list with brackets"
		}
		return nil, []error{plainYAML(err.Error() + hint)}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		if wrong, ok := errors.AsType[*yaml.TypeError](err); ok {
			var errs []error
			for _, text := range wrong.Errors {
				errs = append(errs, plainYAML(text))
			}
			return nil, errs
		}
		return nil, []error{plainYAML(err.Error())}
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, []error{errors.New("one document is wanted, without a line of three dashes in its middle")}
	}
	w := where{&root}
	if errs := c.complete(w); len(errs) > 0 {
		return nil, errs
	}
	return c, nil
}

var (
	lineRE    = regexp.MustCompile(`^(?:yaml: )?(?:unmarshal errors:\s*)?line (\d+): (.*)$`)
	unknownRE = regexp.MustCompile(`^field (.*) not found in type main\.(\w+)$`)
	kindRE    = regexp.MustCompile("^cannot unmarshal (!!\\w+)(?: `(.*)`)? into (.*)$")
	twiceRE   = regexp.MustCompile(`^mapping key "(.*)" already defined at line (\d+)$`)
)

// configTypes are the types whose keys an error may be about.
var configTypes = []reflect.Type{
	reflect.TypeFor[config](), reflect.TypeFor[logConfig](), reflect.TypeFor[tlsConfig](), reflect.TypeFor[limitConfig](), reflect.TypeFor[filesConfig](),
	reflect.TypeFor[joinConfig](), reflect.TypeFor[socketsConfig](), reflect.TypeFor[nativeConfig](), reflect.TypeFor[syslogConfig](),
	reflect.TypeFor[logplexConfig](), reflect.TypeFor[dropsondeConfig](), reflect.TypeFor[grpcConfig](),
}

// plainYAML says in the words of the file what the YAML library says in those of
// Go.
func plainYAML(text string) error {
	m := lineRE.FindStringSubmatch(strings.ReplaceAll(text, "\n", " "))
	if m == nil {
		return errors.New(strings.TrimPrefix(text, "yaml: "))
	}
	line, _ := strconv.Atoi(m[1])
	says := m[2]
	if u := unknownRE.FindStringSubmatch(says); u != nil {
		says = fmt.Sprintf("unknown key %q", u[1])
		for _, t := range configTypes {
			if t.Name() == u[2] {
				says += "; there are " + strings.Join(keysOf(t), ", ")
			}
		}
	} else if k := kindRE.FindStringSubmatch(says); k != nil {
		says = fmt.Sprintf("%s is wanted here", kindName(k[3]))
		if k[2] != "" {
			says += fmt.Sprintf(", not %q", k[2])
		}
	} else if k := twiceRE.FindStringSubmatch(says); k != nil {
		says = fmt.Sprintf("%s is there twice, in line %s too", k[1], k[2])
	}
	return &atLine{line, errors.New(says)}
}

func kindName(goType string) string {
	switch {
	case strings.HasPrefix(goType, "[]"):
		return `a list ("- …" lines)`
	case goType == "int":
		return "a number"
	case goType == "bool":
		return "true or false"
	case goType == "string":
		return "a text"
	}
	return `a group of keys ("key: value" lines)`
}

func keysOf(t reflect.Type) (keys []string) {
	for f := range t.Fields() {
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case key != "":
			keys = append(keys, key)
		case f.Anonymous:
			keys = append(keys, keysOf(f.Type)...)
		}
	}
	slices.Sort(keys)
	return keys
}

// changed are the top keys whose values differ.
func (c *config) changed(from *config) (keys []string) {
	for f, is := range reflect.ValueOf(c).Elem().Fields() {
		if !reflect.DeepEqual(is.Interface(), reflect.ValueOf(from).Elem().FieldByIndex(f.Index).Interface()) {
			keys = append(keys, f.Tag.Get("yaml"))
		}
	}
	return keys
}

// where knows the lines of the file.
type where struct{ root *yaml.Node }

// line is that of the i-th entry of a list, or of a top key if i is negative.
func (w where) line(key string, i int) int {
	if len(w.root.Content) == 0 {
		return 1
	}
	for top := w.root.Content[0].Content; len(top) >= 2; top = top[2:] {
		if top[0].Value != key {
			continue
		}
		if i >= 0 && i < len(top[1].Content) {
			return top[1].Content[i].Line
		}
		return top[0].Line
	}
	return 1
}
