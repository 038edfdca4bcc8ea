package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
)

// ownerPrefix begins the name of the empty file that says, in the directory of a
// writable layer, which sandbox that belongs to: after a reboot nothing else does. It is
// a name and no content, since without a sync a power failure can take content alone.
const ownerPrefix = "sandbox-"

// newPrefix begins the names of layer directories that have no owner yet.
const newPrefix = ".new-"

// cleanName is the last element of a path: what a name must equal to be used as one.
func cleanName(id string) string { return filepath.Base(filepath.Clean("/" + id)) }

// Attach finds a sandbox again after a restart of the daemon. With ErrGone the sandbox
// beside it still removes what is left.
func (k *Kernel) Attach(_ context.Context, r Record) (Sandbox, error) {
	var s podState
	if len(r.Data) > 0 {
		if err := json.Unmarshal(r.Data, &s); err != nil {
			return k.remains(r.ID), fmt.Errorf("read sandbox record: %w: %w", ErrGone, err)
		}
	}
	// What lies beside the namespaces is newer, or all there is of a half-made sandbox.
	if onDisk, err := k.readState(r.ID); err == nil {
		s = onDisk
	}
	if s.Config.ID != r.ID {
		return k.remains(r.ID), fmt.Errorf("attach to sandbox: %w", ErrGone)
	}
	p := k.newPod(s)
	if err := p.reattach(); err != nil {
		p.stopped = true
		p.end()
		return p, fmt.Errorf("attach to sandbox: %w: %w", ErrGone, err)
	}
	return p, nil
}

// reattach proves that all of the sandbox is there.
func (p *pod) reattach() error {
	if _, err := os.Stat(p.dir(stateFile)); err != nil {
		return err
	}
	// A pod that shares all with the host has nothing else that a reboot would take.
	if p.state.Boot != p.driver.boot {
		return fmt.Errorf("find sandbox of another boot: %w", errdefs.ErrNotFound)
	}
	c := &p.state.Config
	for _, t := range slices.Concat(c.ownTypes(), c.heldTypes()) {
		if !p.namespaces().Has(t) {
			return fmt.Errorf("find %s namespace: %w", t, errdefs.ErrNotFound)
		}
	}
	if c.PID == runtime.NamespacePod {
		return p.watchRecordedInit()
	}
	return nil
}

// remains is a sandbox of which nothing but the id is known.
func (k *Kernel) remains(id string) *pod {
	c := Config{ID: id, Network: runtime.NamespacePod, IPC: runtime.NamespacePod, PID: runtime.NamespacePod}
	p := k.newPod(podState{Config: c})
	p.stopped = true
	p.end()
	return p
}

func (k *Kernel) readState(id string) (s podState, err error) {
	content, err := os.ReadFile(k.path("sandboxes", id, stateFile))
	if err != nil {
		return s, fmt.Errorf("read sandbox state: %w", err)
	}
	if err := json.Unmarshal(content, &s); err != nil {
		return s, fmt.Errorf("decode sandbox state: %w", err)
	}
	if s.Config.ID != id {
		return s, fmt.Errorf("decode sandbox state: it is another's: %w", errdefs.ErrInternal)
	}
	return s, nil
}

// layerOwners says which sandbox each writable layer belongs to.
func (k *Kernel) layerOwners() (map[string]string, error) {
	names, err := readNames(k.layerDir(""))
	if err != nil {
		return nil, err
	}
	owners := map[string]string{}
	for _, name := range names {
		if strings.HasPrefix(name, newPrefix) {
			continue // on its way
		}
		inside, err := readNames(k.layerDir(name))
		if err != nil {
			return nil, err
		}
		for _, file := range inside {
			if owner, ok := strings.CutPrefix(file, ownerPrefix); ok {
				owners[name] = owner
			}
		}
		if len(inside) == 0 {
			// Its removal was cut short. One that is being made is never empty under its name.
			_ = k.withoutQuota(k.layerDir(name), os.Remove)
		}
	}
	return owners, nil
}

func (k *Kernel) layersOf(sandbox string) ([]string, error) {
	owners, err := k.layerOwners()
	var ids []string
	for id, owner := range owners {
		if owner == sandbox {
			ids = append(ids, id)
		}
	}
	return ids, err
}

func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", filepath.Base(dir), err)
	}
	defer func() { _ = f.Close() }()
	names, err := f.Readdirnames(-1)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // removed since it was opened
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", filepath.Base(dir), err)
	}
	return names, nil
}
