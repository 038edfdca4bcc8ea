package trust

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
)

// identity decides whether the name that a signature claims is that of the image, after
// signedIdentity of containers-policy.json(5).
type identity struct {
	Type             string `json:"type"`
	DockerReference  string `json:"dockerReference"`
	DockerRepository string `json:"dockerRepository"`
	Prefix           string `json:"prefix"`
	SignedPrefix     string `json:"signedPrefix"`
}

// Types of identities.
const (
	matchExact             = "matchExact"
	matchRepoDigestOrExact = "matchRepoDigestOrExact"
	matchRepository        = "matchRepository"
	exactReference         = "exactReference"
	exactRepository        = "exactRepository"
	remapIdentity          = "remapIdentity"
)

func parseIdentity(raw json.RawMessage) (identity, error) {
	if raw == nil {
		return identity{Type: matchRepoDigestOrExact}, nil
	}
	var id identity
	if err := strict(raw, &id); err != nil {
		return id, err
	}
	var want identity // what this type has beside its name
	switch id.Type {
	case matchExact, matchRepoDigestOrExact, matchRepository:
	case exactReference:
		want.DockerReference = id.DockerReference
		if named, err := reference.ParseNormalizedNamed(id.DockerReference); err != nil || reference.IsNameOnly(named) {
			return id, errors.New("dockerReference needs a name with tag or digest")
		}
	case exactRepository:
		want.DockerRepository = id.DockerRepository
		if _, err := reference.ParseNormalizedNamed(id.DockerRepository); err != nil {
			return id, fmt.Errorf("dockerRepository: %w", err)
		}
	case remapIdentity:
		want.Prefix, want.SignedPrefix = id.Prefix, id.SignedPrefix
		if id.Prefix == "" || id.SignedPrefix == "" {
			return id, errors.New("prefix and signedPrefix are needed")
		}
	default:
		return id, fmt.Errorf("type %q is unknown", id.Type)
	}
	if want.Type = id.Type; want != id {
		return id, fmt.Errorf("fields that type %q does not have", id.Type)
	}
	return id, nil
}

// accepts compares the image's name with the one that was signed.
func (id identity) accepts(n Name, claimed string) bool {
	named, err := reference.ParseNormalizedNamed(claimed)
	if err != nil {
		return false
	}
	switch id.Type {
	case matchRepository:
		return named.Name() == n.Repository
	case matchExact:
		return named.String() == n.String()
	case matchRepoDigestOrExact:
		return repoDigestOrExact(n, named)
	case exactReference:
		want, err := reference.ParseNormalizedNamed(id.DockerReference)
		return err == nil && want.String() == named.String()
	case exactRepository:
		want, err := reference.ParseNormalizedNamed(id.DockerRepository)
		return err == nil && want.Name() == named.Name()
	case remapIdentity:
		return repoDigestOrExact(id.remap(n), named)
	}
	return false
}

// repoDigestOrExact asks for the same tag; a digest says by itself which image is meant.
func repoDigestOrExact(n Name, claimed reference.Named) bool {
	if n.Digest != "" {
		return claimed.Name() == n.Repository
	}
	return claimed.String() == n.String()
}

// remap gives a mirror's image the name that it was signed under.
func (id identity) remap(n Name) Name {
	rest, ok := strings.CutPrefix(n.Repository, id.Prefix)
	if ok && (rest == "" || rest[0] == '/') {
		n.Repository = id.SignedPrefix + rest
	}
	return n
}
