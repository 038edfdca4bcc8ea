package volume

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
)

// Savable is errdefs.ErrFailedPrecondition, with the name of a volume, if the machine cannot
// be saved as a whole because of it: QEMU saves no 9p file system that is mounted.
func (s *Set) Savable() error {
	s.lock <- struct{}{}
	defer func() { <-s.lock }()
	for _, v := range s.state.Volumes {
		if v.Kind == kindShared {
			return fmt.Errorf("volume %s is shared with the host by 9p: %w", v.Source, errdefs.ErrFailedPrecondition)
		}
		if len(v.Targets) < len(v.Users) {
			return fmt.Errorf("volume %s was mounted by an earlier version of Cricket: %w", v.Source, errdefs.ErrFailedPrecondition)
		}
	}
	if s.state.Shared {
		return fmt.Errorf("a volume that is gone was shared with the host by 9p, and the machine still has its file system: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// maxNext is more than the names that a Set can have given.
const maxNext = 1 << 40

// Moved is a container whose volumes lie elsewhere now.
type Moved struct {
	// From is what it was called, ID what it is called now.
	From, ID string
	Mounts   []runtime.Mount
}

// Move makes the State of a Set one for the same guest on another host, or in another pod:
// the content of emptyDirs is the guest's, that of what is mirrored becomes the host's. The
// mounts of the containers must be those that State has, and their sources of the same
// kind: errdefs.ErrFailedPrecondition. What no container uses is given up.
func Move(old json.RawMessage, containers []Moved) (json.RawMessage, error) {
	var was state
	if len(old) > 0 {
		if err := json.Unmarshal(old, &was); err != nil {
			return nil, fmt.Errorf("read state of volumes: %w: %w", errdefs.ErrDataLoss, err)
		}
	}
	for key, v := range was.Volumes {
		if v == nil {
			delete(was.Volumes, key)
		}
	}
	if err := was.check(); err != nil {
		return nil, fmt.Errorf("read state of volumes: %w", err)
	}
	is := state{Next: was.Next, Mirror: was.Mirror, Volumes: map[string]*volume{}}
	keys := map[*volume]string{}
	for _, c := range containers {
		if err := was.move(&is, c, keys); err != nil {
			return nil, err
		}
	}
	out, err := json.Marshal(is)
	if err != nil {
		return nil, fmt.Errorf("describe volumes: %w", err)
	}
	return out, nil
}

// check looks whether a Set can have said this: it may come from anywhere, and names become
// files and mount points of the host.
func (s *state) check() error {
	if s.Next < 0 || s.Next > maxNext {
		return fmt.Errorf("next name is %d: %w", s.Next, errdefs.ErrDataLoss)
	}
	names := map[string]bool{}
	for _, v := range s.Volumes {
		n, err := strconv.Atoi(v.Name)
		if err != nil || n < 1 || n > s.Next || v.Name != strconv.Itoa(n) || names[v.Name] {
			return fmt.Errorf("a volume has the name %.50q: %w", v.Name, errdefs.ErrDataLoss)
		}
		names[v.Name] = true
		if v.Kind == kindShared {
			return fmt.Errorf("volume %s is shared with a host, which no checkpoint has: %w", v.Name, errdefs.ErrDataLoss)
		}
		if !path.IsAbs(v.Path) || path.Clean(v.Path) != v.Path || path.Base(v.Path) != v.Name {
			return fmt.Errorf("volume %s lies at %.100q: %w", v.Name, v.Path, errdefs.ErrDataLoss)
		}
	}
	return nil
}

// move moves the volumes of one container, which keys has by what they were.
func (s *state) move(to *state, c Moved, keys map[*volume]string) error {
	var moved []string
	for _, m := range c.Mounts {
		if len(m.Image) > 0 {
			continue
		}
		was := s.mounted(target(c.From, m.Destination))
		if was == nil {
			return refuse(errdefs.ErrFailedPrecondition, "container_path", "%s is none of the checkpoint's mounts", m.Destination)
		}
		key, v, err := was.moved(m)
		if err != nil {
			return err
		}
		if k, ok := keys[was]; ok && k != key {
			return refuse(errdefs.ErrFailedPrecondition, "host_path", "%s was one volume with %s", m.Source, to.Volumes[k].Source)
		}
		if other := to.Volumes[key]; other == nil {
			to.Volumes[key] = v
		} else if keys[was] != key {
			return refuse(errdefs.ErrFailedPrecondition, "host_path", "%s was another volume than %s", m.Source, other.Source)
		}
		v, keys[was] = to.Volumes[key], key
		v.Writable = v.Writable || !m.Readonly && v.Kind == kindFile
		v.Targets = append(v.Targets, target(c.ID, m.Destination))
		if !slices.Contains(v.Users, c.ID) {
			v.Users = append(v.Users, c.ID)
		}
		moved = append(moved, target(c.From, m.Destination))
	}
	for _, v := range s.Volumes {
		for _, t := range v.Targets {
			if strings.HasPrefix(t, c.From+" ") && !slices.Contains(moved, t) {
				return refuse(errdefs.ErrFailedPrecondition, "container_path", "%s is mounted in the checkpoint", strings.TrimPrefix(t, c.From+" "))
			}
		}
	}
	return nil
}

func (s *state) mounted(target string) *volume {
	for _, v := range s.Volumes {
		if slices.Contains(v.Targets, target) {
			return v
		}
	}
	return nil
}

// moved is v with the source of m, and its key.
func (v *volume) moved(m runtime.Mount) (string, *volume, error) {
	src, err := openSource(m.Source)
	if err != nil {
		return "", nil, err
	}
	defer src.close()
	p, err := classify(m, src, "")
	if err != nil {
		return "", nil, err
	}
	if p.kind != v.Kind {
		return "", nil, refuse(errdefs.ErrFailedPrecondition, "host_path", "%s is a %s volume, the checkpoint has a %s volume at %s", m.Source, p.kind, v.Kind, m.Destination)
	}
	is := &volume{Kind: v.Kind, Name: v.Name, Source: p.source, Path: v.Path, Sums: v.Sums, Content: v.Content}
	key := string(p.kind) + " " + p.source
	if p.kind == kindFile {
		is.Dev, is.Ino = src.stat.Dev, src.stat.Ino
		key = fileKey(key, *is)
	}
	return key, is, nil
}
