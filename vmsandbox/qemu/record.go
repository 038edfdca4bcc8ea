package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// record is what the next daemon has to know of a machine and cannot ask QEMU. It is
// written before the machine starts.
type record struct {
	// User that QEMU runs as, 0 for the monitor's.
	User uint32 `json:"user,omitempty"`
	// MemoryMiB and MaxMemoryMiB are those of the shape.
	MemoryMiB    int `json:"memoryMiB"`
	MaxMemoryMiB int `json:"maxMemoryMiB,omitempty"`
}

const recordName = "machine.json"

// writeRecord needs no sync: the record describes a running thing.
func writeRecord(dir string, r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, recordName), b, 0o600)
}

func readRecord(dir string) (record, error) {
	b, err := os.ReadFile(filepath.Join(dir, recordName))
	if errors.Is(err, os.ErrNotExist) {
		return record{}, fmt.Errorf("read record of machine: %w", errdefs.ErrNotFound)
	}
	if err != nil {
		return record{}, fmt.Errorf("read record of machine: %w", err)
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, fmt.Errorf("read record of machine: %w: %w", errdefs.ErrNotFound, err)
	}
	return r, nil
}
