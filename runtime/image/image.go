package image

import (
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image describes one whole image. Values share memory with the store: they are not to
// be changed.
type Image struct {
	// ID is the digest of the image's configuration, of an artifact's manifest: "sha256:"
	// and 64 digits.
	ID digest.Digest
	// Artifact is the type of an OCI artifact, which can be mounted as a volume and not be
	// run: its artifactType, or the media type of its configuration. It is empty for images.
	Artifact string
	// RepoTags are the full names with tag that lead to the image
	// ("docker.io/library/busybox:latest"), sorted.
	RepoTags []string
	// RepoDigests are the full names with the digest that was pulled, of an index where
	// the name leads to one ("docker.io/library/busybox@sha256:…"), sorted.
	RepoDigests []string
	// Size is what the registry sends for the image in bytes: index, manifest,
	// configuration and compressed layers. That is the size containerd reports.
	Size uint64
	// Config is the content of the configuration file; zero for artifacts.
	Config ocispec.Image
	// Layers lists the diff ids, the lowest layer first. An image may hold the same
	// layer twice. Those of an artifact's files are names of this store's own.
	Layers []digest.Digest
	// Pinned says that the configuration of the node, or whoever brought the image in,
	// protects it from garbage collection. Remove works all the same.
	Pinned bool
	// Checkpoint is the annotation or label by which the image calls itself the checkpoint
	// of a container; empty for all others.
	Checkpoint string
	// PulledAt is when the image came in first.
	PulledAt time.Time
}

// User returns the user the image wants to run as: a number, or a name, or neither if
// the image does not say. A group after a colon is left out.
func (i Image) User() (uid *int64, username string) {
	user, _, _ := strings.Cut(i.Config.Config.User, ":")
	if user == "" {
		return nil, ""
	}
	if n, err := strconv.ParseInt(user, 10, 64); err == nil && n >= 0 {
		return &n, ""
	}
	return nil, user
}

// fullPatterns completes patterns without a star as names are completed, so that "busybox"
// is the image that a pod means by it.
func fullPatterns(patterns []string) []string {
	full := make([]string, 0, len(patterns))
	for _, p := range patterns {
		if n, err := parseName(p); err == nil && !strings.Contains(p, "*") {
			p = n.full
		}
		full = append(full, p)
	}
	return full
}

// pinned says whether one of the names matches one of the patterns. A pattern is a full
// name with tag or digest; a star at its begin or end stands for anything.
func pinned(patterns []string, names ...string) bool {
	for _, p := range patterns {
		for _, n := range names {
			if matches(p, n) {
				return true
			}
		}
	}
	return false
}

func matches(pattern, name string) bool {
	head, anyHead := strings.CutPrefix(pattern, "*")
	body, anyTail := strings.CutSuffix(head, "*")
	switch {
	case anyHead && anyTail:
		return strings.Contains(name, body)
	case anyHead:
		return strings.HasSuffix(name, body)
	case anyTail:
		return strings.HasPrefix(name, body)
	}
	return name == pattern
}
