package oidc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// Rule lets those read whose token has a claim of a value. In a file:
//
//	{"rules": [
//	  {"claim": "groups", "value": "operators", "read": "everything"},
//	  {"claim": "groups", "value": "*", "read": [{"org": "{value}"}]},
//	  {"claim": "realm_access.roles", "value": "shop-dev", "read": [{"app": "shop"}]}
//	]}
type Rule struct {
	// Claim is the name of a claim, or the way to it, with dots between, where it
	// is inside of others. One that is a list has each of its values; those named
	// scope and scp have their words.
	Claim string `json:"claim"`

	// Value that it must have; "*" is any.
	Value string `json:"value"`

	// Read is what that lets read. "{value}" in it stands for the claim's value.
	Read access.Permits `json:"read"`
}

func (r *Rule) check() error {
	switch {
	case r.Claim == "":
		return errors.New("it names no claim")
	case r.Value == "":
		return errors.New(`it names no value; "*" is any`)
	case len(r.Read) == 0:
		return errors.New(`it lets nobody read; "read" is "everything" or a list like [{"app":"shop"}]`)
	}
	return nil
}

// ReadRules reads a file of rules.
func ReadRules(path string) ([]Rule, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	rules, err := parseRules(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return rules, nil
}

func parseRules(text []byte) ([]Rule, error) {
	var file struct {
		Rules []Rule `json:"rules"`
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(&file)
	if _, end := d.Token(); err == nil && end != io.EOF {
		err = errors.New("there is something behind its end")
	}
	if err != nil {
		return nil, fmt.Errorf(`it is no file of rules like {"rules":[{"claim":"groups","value":"shop-dev","read":[{"app":"shop"}]}]}: %w`, err)
	}
	if len(file.Rules) == 0 {
		return nil, errors.New("it has no rules, so nobody could read")
	}
	for i := range file.Rules {
		if err := file.Rules[i].check(); err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
	}
	return file.Rules, nil
}

// appendTo appends what the claims let read by this rule.
func (r *Rule) appendTo(allowed []envelope.Selector, claims map[string]any) []envelope.Selector {
	for _, value := range values(claims, r.Claim) {
		if r.Value != "*" && r.Value != value {
			continue
		}
		for _, s := range r.Read {
			for _, field := range []*string{&s.SourceID, &s.App, &s.Space, &s.Org} {
				*field = strings.ReplaceAll(*field, "{value}", value)
			}
			allowed = append(allowed, s)
		}
	}
	return allowed
}

// values are those of a claim, by its name or the way to it. None is empty: an
// empty field of a selector is no restriction.
func values(claims map[string]any, name string) []string {
	claim, ok := claims[name]
	for rest := name; !ok; {
		outer, inner, more := strings.Cut(rest, ".")
		if !more {
			return nil
		}
		if claims, ok = claims[outer].(map[string]any); !ok {
			return nil
		}
		claim, ok = claims[inner]
		rest = inner
	}
	list, ok := claim.([]any)
	if !ok {
		list = []any{claim}
	}
	var found []string
	for _, v := range list {
		switch v := v.(type) {
		case string:
			if name == "scope" || name == "scp" { // RFC 8693, section 4.2
				found = append(found, strings.Fields(v)...)
			} else if v != "" {
				found = append(found, v)
			}
		case bool:
			found = append(found, fmt.Sprint(v))
		}
	}
	return found
}
