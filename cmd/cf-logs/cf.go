package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// cfConfig is what the cf client remembers of its login and target.
type cfConfig struct {
	AccessToken        string
	Target             string // the API's address
	DopplerEndPoint    string
	LogCacheEndPoint   string
	SpaceFields        struct{ Name string }
	OrganizationFields struct{ Name string }

	err error // why nothing could be read
}

// readConfig reads $CF_HOME/.cf/config.json, or that of the home directory. Who
// has none is not logged in, which is an error only for who needs it.
func readConfig() cfConfig {
	home := os.Getenv("CF_HOME")
	if home == "" {
		var err error
		if home, err = os.UserHomeDir(); err != nil {
			return cfConfig{err: err}
		}
	}
	data, err := os.ReadFile(filepath.Join(home, ".cf", "config.json"))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = errors.New("the cf client has not been used here")
		}
		return cfConfig{err: err}
	}
	var c cfConfig
	if err := json.Unmarshal(data, &c); err != nil {
		return cfConfig{err: errors.New("the cf client's config.json cannot be read")}
	}
	return c
}

// targeted is the name of what the cf client targets.
func (c cfConfig) targeted(what, name string) (string, error) {
	switch {
	case c.err != nil:
		return "", fmt.Errorf("no %s is targeted: %w; name one with --%s=NAME", what, c.err, what)
	case name == "":
		return "", fmt.Errorf("no %s is targeted: use cf target, or name one with --%s=NAME", what, what)
	}
	return name, nil
}

// manifestApp is the name of the one application in a manifest.
func manifestApp(path string) (string, error) {
	const hint = "name an application with --app=APP_NAME"
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no %s here: %s", path, hint)
	}
	if err != nil {
		return "", err
	}
	var manifest struct {
		Applications []struct {
			Name string `yaml:"name"`
		} `yaml:"applications"`
	}
	if err := yaml.Unmarshal(data, &manifest); err != nil {
		return "", fmt.Errorf("%s cannot be read (%s): %s", path, strings.ReplaceAll(err.Error(), "\n", " "), hint)
	}
	var names []string
	for _, app := range manifest.Applications {
		if app.Name != "" {
			names = append(names, app.Name)
		}
	}
	switch len(names) {
	case 0:
		return "", fmt.Errorf("%s names no application: %s", path, hint)
	case 1:
		return names[0], nil
	}
	return "", fmt.Errorf("%s has several applications (%s): choose one with --app=APP_NAME", path, strings.Join(names, ", "))
}
