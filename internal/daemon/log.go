package daemon

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"log/slog"
)

// Logger logs as text to w.
func Logger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// LogFlags say how a daemon logs.
type LogFlags struct {
	format string
	level  string
	active slog.LevelVar
}

// Register adds the flags.
func (l *LogFlags) Register(fs *flag.FlagSet) {
	fs.StringVar(&l.format, "log-format", "text", "how to log, to standard error: text or json")
	fs.StringVar(&l.level, "log-level", "info", "what to log: debug, info, warn or error")
}

// Set sets format and level in place of the flags; empty is the default.
func (l *LogFlags) Set(format, level string) {
	l.format, l.level = cmp.Or(format, "text"), cmp.Or(level, "info")
}

// Logger makes the logger that the flags describe.
func (l *LogFlags) Logger(w io.Writer) (*slog.Logger, error) {
	if err := l.SetLevel(l.level); err != nil {
		return nil, err
	}
	o := &slog.HandlerOptions{Level: &l.active}
	switch l.format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, fmt.Errorf("-log-format: %q is neither text nor json", l.format)
}

// SetLevel changes the level of a logger that is in use.
func (l *LogFlags) SetLevel(level string) error {
	var at slog.Level
	if err := at.UnmarshalText([]byte(level)); err != nil {
		return fmt.Errorf("-log-level: %q is none of debug, info, warn and error", level)
	}
	l.active.Set(at)
	return nil
}
