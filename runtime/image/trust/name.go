package trust

import (
	"fmt"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// Name is a full name of an image, with either a tag or a digest.
type Name struct {
	Repository string // docker.io/library/busybox
	Tag        string
	Digest     digest.Digest
}

// ParseName reads a name in full or as users write it: docker.io, library/ and latest are
// implied, and a digest beats the tag before it.
func ParseName(text string) (Name, error) {
	named, err := reference.ParseDockerRef(text)
	if err != nil {
		return Name{}, fmt.Errorf("parse image name %q: %w", text, err)
	}
	n := Name{Repository: named.Name()}
	switch r := named.(type) {
	case reference.Digested:
		n.Digest = r.Digest()
	case reference.Tagged:
		n.Tag = r.Tag()
	}
	return n, nil
}

func (n Name) String() string {
	if n.Digest != "" {
		return n.Repository + "@" + n.Digest.String()
	}
	return n.Repository + ":" + n.Tag
}
