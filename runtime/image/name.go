package image

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// name is a reference in its full form: either tag or digest is set, never both.
type name struct {
	full   string // what is asked of the registry
	repo   string // docker.io/library/busybox
	tag    string // docker.io/library/busybox:latest, empty for a digest
	digest digest.Digest
}

// parseName reads a reference as Docker does: docker.io, library/ and latest are
// implied, and a digest beats the tag before it.
func parseName(ref string) (name, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return name{}, fmt.Errorf("parse image reference %q: %w: %w", ref, errdefs.ErrInvalidArgument, err)
	}
	n := name{full: named.String(), repo: named.Name()}
	if d, ok := named.(reference.Digested); ok {
		n.digest = d.Digest()
		return n, checkDigest(n.digest)
	}
	n.tag = n.full
	return n, nil
}

// repoDigest names what was pulled from the repository.
func (n name) repoDigest(target digest.Digest) string {
	return n.repo + "@" + target.String()
}

// minPrefix is the least number of hexadecimal digits taken for the beginning of an
// image's id. Fewer would turn short names of images that are absent into ids.
const minPrefix = 6

// idPrefix returns the digits of something that may be the beginning of an id.
func idPrefix(ref string) (string, bool) {
	hex := strings.TrimPrefix(ref, "sha256:")
	if len(hex) < minPrefix || len(hex) > 64 {
		return "", false
	}
	return hex, strings.Trim(hex, "0123456789abcdef") == ""
}
