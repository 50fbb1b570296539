package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/cloudfoundry/loggregator/internal/daemon"
)

const usage = `Usage: cf-logs [--app=APP_NAME | --space[=NAME] | --org[=NAME]] [--recent]

Shows the last lines of an application's log and follows it until interrupted.
Without a selector the application is the one in ./manifest.yml; --space and
--org without a name are the ones that the cf client targets.

  cf-logs                                the application of ./manifest.yml
  cf-logs --app=web                      the last 10 lines of web, then what follows
  cf-logs --app=web --recent             what is held of web (an hour), then end
  cf-logs --app=web --since=10m --stderr
  cf-logs --app=web --instance=2 --lines=100
  cf-logs --space                        all apps of the targeted space, named in front
  cf-logs --org=acme --recent --json | jq -r .text
  cf-logs --app=new --wait               an app that has not logged yet

A cut connection is taken up where it was cut: no line is missing, none comes
twice. Lines that were lost on the way here are told of in their place:

  -- 123 lines missed --

A server that asks for a token gets that of the cf client's login, if it is one of
the platform's own, or $LOGGREGATOR_TOKEN, which is sent to $LOGGREGATOR_TARGET if
that is set, else to --target. When the login's has run out, a tail goes on with the
next one, if the cf client has got it by then.
`

// options are the flags.
type options struct {
	app        string
	space, org optional
	recent     bool
	since      string
	lines      int // -1: not given
	instance   string
	stdout     bool
	stderr     bool
	json       bool
	wait       bool
	target     string

	usage func(io.Writer)
}

// optional is a flag that may be given without a value.
type optional struct {
	set   bool
	value string
}

func (o *optional) IsBoolFlag() bool { return true }
func (o *optional) String() string   { return o.value }

func (o *optional) Set(s string) error {
	o.set, o.value = true, s
	switch s {
	case "true": // how package flag spells "without a value"
		o.value = ""
	case "false":
		o.set, o.value = false, ""
	}
	return nil
}

// parse reads the flags. With flag.ErrHelp the options can still print usage.
func parse(args []string) (*options, error) {
	opt := &options{lines: -1}
	fs := flag.NewFlagSet("cf-logs", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // errors are returned
	fs.Usage = func() {}
	opt.usage = func(w io.Writer) {
		fs.SetOutput(w)
		daemon.Usage(fs, usage)()
	}
	fs.StringVar(&opt.app, "app", "", "application by `name` or id (default the one in ./manifest.yml)")
	fs.Var(&opt.space, "space", "all applications of the space `[=name]` (default the targeted one)")
	fs.Var(&opt.org, "org", "all applications of the org `[=name]` (default the targeted one)")
	fs.BoolVar(&opt.recent, "recent", false, "show what is held and end")
	fs.StringVar(&opt.since, "since", "", "begin this long ago (10m) or at this `time` (2006-01-02T15:04:05Z)")
	fs.Func("lines", "begin with the last `N` lines (default 10; with --recent, all)", func(s string) (err error) {
		if opt.lines, err = strconv.Atoi(s); err != nil || opt.lines < 0 {
			return fmt.Errorf("it takes a number")
		}
		return nil
	})
	fs.StringVar(&opt.instance, "instance", "", "instance `N` only")
	fs.BoolVar(&opt.stdout, "stdout", false, "lines written to standard output only")
	fs.BoolVar(&opt.stderr, "stderr", false, "lines written to standard error only")
	fs.BoolVar(&opt.json, "json", false, "one JSON object a line")
	fs.BoolVar(&opt.wait, "wait", false, "wait for an application that has not logged yet")
	fs.StringVar(&opt.target, "target", "http://127.0.0.1:8080", "`URL` of the server")
	switch err := daemon.Parse(fs, args); {
	case errors.Is(err, flag.ErrHelp):
		return opt, flag.ErrHelp
	case err != nil:
		return opt, fmt.Errorf("%s; -help explains", strings.TrimPrefix(err.Error(), "error parsing commandline arguments: "))
	}
	return opt, opt.check(fs.Args())
}

func (o *options) check(rest []string) error {
	selectors := 0
	for _, given := range []bool{o.app != "", o.space.set, o.org.set} {
		if given {
			selectors++
		}
	}
	switch {
	case len(rest) > 0 && o.space.set && o.space.value == "":
		return fmt.Errorf("unexpected %q: a space is named with an equals sign, --space=%s", rest[0], rest[0])
	case len(rest) > 0 && o.org.set && o.org.value == "":
		return fmt.Errorf("unexpected %q: an org is named with an equals sign, --org=%s", rest[0], rest[0])
	case len(rest) > 0:
		return fmt.Errorf("unexpected %q: an application is named with --app=%s", rest[0], rest[0])
	case selectors > 1:
		return fmt.Errorf("--app, --space and --org exclude each other: give one of them")
	case o.since != "" && o.lines >= 0:
		return fmt.Errorf("--since and --lines exclude each other: give one of them")
	case o.recent && o.lines == 0:
		return fmt.Errorf("--recent with --lines=0 shows nothing")
	}
	if o.since != "" {
		d, err := time.ParseDuration(o.since)
		if _, terr := time.Parse(time.RFC3339, o.since); (err != nil || d < 0) && terr != nil {
			return fmt.Errorf("--since takes a duration like 10m or a time like 2006-01-02T15:04:05Z, not %q", o.since)
		}
	}
	return nil
}

// several is whether lines of several applications may come.
func (o *options) several() bool { return o.space.set || o.org.set }

// server fills in what the flags left open and says whom to ask for what.
func (o *options) server() (*server, error) {
	config := readConfig()
	s := &server{opt: o}
	var err error
	switch {
	case o.space.set:
		s.what, s.name = "space", o.space.value
		if s.name == "" {
			s.name, err = config.targeted("space", config.SpaceFields.Name)
		}
	case o.org.set:
		s.what, s.name = "org", o.org.value
		if s.name == "" {
			s.name, err = config.targeted("org", config.OrganizationFields.Name)
		}
	default:
		s.what, s.name = "app", o.app
		if s.name == "" {
			s.name, err = manifestApp("manifest.yml")
		}
	}
	if err != nil {
		return nil, err
	}
	return s, s.setTarget(strings.TrimSpace(o.target), config)
}
