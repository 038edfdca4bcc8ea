// Package cdi adds devices of the Container Device Interface (CDI) to OCI
// specifications: what a vendor wrote down that a container needs beside a device node,
// such as mounts of its driver's libraries and hooks.
//
// Specifications of devices are read anew for every container that asks for devices:
// device plugins write them just before.
package cdi

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"
)

// AnnotationPrefix begins the annotations by which device plugins ask for devices.
const AnnotationPrefix = cdi.AnnotationPrefix

// Registry knows the devices of this host. Its methods are safe for concurrent use; a nil
// Registry is one that is switched off.
type Registry struct {
	mu    sync.Mutex // injecting completes the cached device nodes
	cache *cdi.Cache
}

// Open makes a registry of the specifications in dirs; later ones win. A directory that
// does not exist is empty.
func Open(dirs []string) (*Registry, error) {
	// Without the cache's own watcher, which could not be ended.
	cache, err := cdi.NewCache(cdi.WithAutoRefresh(false), cdi.WithSpecDirs(dirs...))
	if err != nil {
		return nil, fmt.Errorf("open CDI registry: %w", err)
	}
	return &Registry{cache: cache}, nil
}

// Requested lists the devices that a container asks for, by field of the API and then by
// annotation, each once. A name that is not of the form VENDOR/CLASS=NAME gives
// errdefs.ErrInvalidArgument with the field's path.
func Requested(devices []string, annotations map[string]string) ([]string, error) {
	var all []string
	add := func(field, name string) error {
		if _, _, _, err := parser.ParseQualifiedName(name); err != nil {
			return fmt.Errorf("%s: %w: %w", field, errdefs.ErrInvalidArgument, err)
		}
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
		return nil
	}
	for i, name := range devices {
		if err := add(fmt.Sprintf("config.CDI_devices[%d].name", i), name); err != nil {
			return nil, err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if !strings.HasPrefix(key, AnnotationPrefix) {
			continue
		}
		for name := range strings.SplitSeq(annotations[key], ",") {
			if err := add(fmt.Sprintf("config.annotations[%q]", key), name); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// Inject adds devices to a specification. Errors name the devices: errdefs.ErrNotFound for
// those that no specification describes, errdefs.ErrFailedPrecondition for those whose
// node cannot be read, errdefs.ErrNotImplemented from a nil Registry.
func (r *Registry) Inject(s *specs.Spec, devices []string) error {
	if len(devices) == 0 {
		return nil
	}
	if r == nil {
		return fmt.Errorf("CDI devices %s: cdi.enabled is false: %w", strings.Join(devices, ", "), errdefs.ErrNotImplemented)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// A file that is wrong hides its own devices only; they are missed below.
	_ = r.cache.Refresh()
	missing, err := r.cache.InjectDevices(s, devices...)
	switch {
	case err == nil:
		nameMappings(s)
		return nil
	case len(missing) > 0:
		return fmt.Errorf("CDI devices %s: %w%s", strings.Join(missing, ", "), errdefs.ErrNotFound, r.broken())
	}
	return fmt.Errorf("CDI devices %s: %w: %w", strings.Join(devices, ", "), errdefs.ErrFailedPrecondition, err)
}

// nameMappings spells out what the options "idmap" and "ridmap" mean, by which CDI asks for
// mounts with the ids of the container's user namespace: crun 1.8 fails at them ("File
// exists") in a namespace that it joins, and at mappings of a mount without a type.
func nameMappings(s *specs.Spec) {
	asks := func(option string) bool { return option == "idmap" || option == "ridmap" }
	for i := range s.Mounts {
		m := &s.Mounts[i]
		if s.Linux == nil || !slices.ContainsFunc(m.Options, asks) || len(m.UIDMappings) > 0 {
			continue
		}
		m.Options = slices.DeleteFunc(slices.Clone(m.Options), asks)
		m.Type = "bind"
		m.UIDMappings, m.GIDMappings = slices.Clone(s.Linux.UIDMappings), slices.Clone(s.Linux.GIDMappings)
	}
}

// broken says which files could not be read: a device that is missed may stand in one.
func (r *Registry) broken() string {
	all := r.cache.GetErrors()
	var text strings.Builder
	for _, path := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&text, "; %s: %v", path, errors.Join(all[path]...))
	}
	return text.String()
}
