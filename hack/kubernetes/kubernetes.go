// Package kubernetes holds the files that a cluster needs for nodes with Cricket, as
// operators apply them and as the project's own tests do.
package kubernetes

import _ "embed"

// RuntimeClass is the class of pods that are virtual machines.
//
//go:embed runtimeclass.yaml
var RuntimeClass string
