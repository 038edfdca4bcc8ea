package image

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// Annotations by which images call themselves checkpoints: those of checkpointctl, Podman
// and Buildah begin with the first; the second is CRI-O's.
const (
	criuPrefix = "org.criu.checkpoint."
	crioMark   = "io.kubernetes.cri-o.annotations.checkpoint.name"
)

// markOf is the first key in annotations that marks a checkpoint, empty if there is none.
func markOf[V any](annotations map[string]V) string {
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if strings.HasPrefix(key, criuPrefix) || key == crioMark {
			return key
		}
	}
	return ""
}

// checkpointMark is what is kept of the annotations of a document.
type checkpointMark string

// UnmarshalJSON implements json.Unmarshaler. Annotations that are none mark nothing: they
// never mattered.
func (m *checkpointMark) UnmarshalJSON(raw []byte) error {
	var annotations map[string]json.RawMessage
	if json.Unmarshal(raw, &annotations) == nil {
		*m = checkpointMark(markOf(annotations))
	}
	return nil
}
