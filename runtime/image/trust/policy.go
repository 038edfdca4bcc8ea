package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Policy says what is asked of images, by scope.
type Policy struct {
	fallback requirements
	scopes   map[string]requirements // "" is the transport's own fallback
}

// requirements have all to be met.
type requirements []requirement

// requirement decides about one image; nil accepts it.
type requirement interface {
	check(i Image) error
	signed() bool // whether it looks at signatures
}

// file is the outer form of a policy.
type file struct {
	Default    []json.RawMessage                       `json:"default"`
	Transports map[string]map[string][]json.RawMessage `json:"transports"`
}

// dockerTransport is the only transport that images of a node come by. Rules for others
// concern other tools that share the file.
const dockerTransport = "docker"

// Parse reads a policy. Unknown fields and requirements that cannot be checked are errors.
func Parse(raw []byte) (*Policy, error) {
	var f file
	if err := strict(raw, &f); err != nil {
		return nil, err
	}
	p := &Policy{scopes: map[string]requirements{}}
	var err error
	if p.fallback, err = parseAll("default", f.Default); err != nil {
		return nil, err
	}
	for scope, list := range f.Transports[dockerTransport] {
		if p.scopes[scope], err = parseAll(fmt.Sprintf("transports.docker[%q]", scope), list); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// strict refuses what it does not know: a misspelt requirement must not mean less.
func strict(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the end")
	}
	return nil
}

func parseAll(where string, list []json.RawMessage) (requirements, error) {
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: at least one requirement is needed", where)
	}
	var all requirements
	for i, raw := range list {
		r, err := parseRequirement(raw)
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", where, i, err)
		}
		all = append(all, r)
	}
	return all, nil
}

func parseRequirement(raw json.RawMessage) (requirement, error) {
	var kind struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(raw, &kind); err != nil {
		return nil, err
	}
	switch kind.Type {
	case "insecureAcceptAnything":
		return accept{}, strict(raw, &kind)
	case "reject":
		return reject{}, strict(raw, &kind)
	case "sigstoreSigned":
		return parseSigned(raw)
	case "signedBy":
		return nil, errors.New("type signedBy (GPG) is not supported, use sigstoreSigned")
	}
	return nil, fmt.Errorf("type %q is unknown", kind.Type)
}

type accept struct{}

func (accept) check(Image) error { return nil }
func (accept) signed() bool      { return false }

type reject struct{}

func (reject) check(Image) error { return errors.New("its scope is rejected") }
func (reject) signed() bool      { return false }

// NeedsSignatures says whether the decision about a name depends on signatures.
func (p *Policy) NeedsSignatures(name Name) bool {
	for _, r := range p.rules(name) {
		if r.signed() {
			return true
		}
	}
	return false
}

// Check decides about an image; the error wraps ErrRefused and says why.
func (p *Policy) Check(i Image) error {
	for _, r := range p.rules(i.Name) {
		if err := r.check(i); err != nil {
			return fmt.Errorf("image %s: %w: %w", i.Name, ErrRefused, err)
		}
	}
	return nil
}

// rules are those of the narrowest scope that a name is in.
func (p *Policy) rules(name Name) requirements {
	for _, scope := range name.scopes() {
		if r, ok := p.scopes[scope]; ok {
			return r
		}
	}
	return p.fallback
}

// scopes lists what a name is in: itself, its repository, the namespaces above, the
// registry, the domains of that without its port and with a star, and "".
func (n Name) scopes() []string {
	scopes := []string{n.String()}
	at := n.Repository
	for cut := len(at); cut >= 0; cut = strings.LastIndexByte(at, '/') {
		at = at[:cut]
		scopes = append(scopes, at)
	}
	host, _, _ := strings.Cut(at, ":")
	for _, rest, ok := strings.Cut(host, "."); ok; _, rest, ok = strings.Cut(rest, ".") {
		scopes = append(scopes, "*."+rest)
	}
	return append(scopes, "")
}
