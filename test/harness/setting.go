package harness

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// The kernel's settings that a kubelet changes and that no namespace has for itself.
var kernelSettings = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// settingsFile keeps them in the node's directory.
const settingsFile = "settings.json"

func saveSettings(dir string) error {
	values := map[string]string{}
	for _, name := range kernelSettings {
		data, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		values[name] = string(data)
	}
	data, err := json.Marshal(values)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, settingsFile), data, 0o600)
}

// restoreSettings writes back those that differ. A directory without any is one whose
// removal has begun, after they were written back.
func restoreSettings(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, settingsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	values := map[string]string{}
	if err := json.Unmarshal(data, &values); err != nil {
		return err
	}
	var errs []error
	for name, value := range values {
		path := filepath.Join("/proc/sys", name)
		if now, err := os.ReadFile(path); err == nil && string(now) == value {
			continue
		}
		errs = append(errs, os.WriteFile(path, []byte(value), 0o644))
	}
	return errors.Join(errs...)
}

// Remove removes what a node has left in the machine whose outer process was killed: its
// processes have ended with it.
func Remove(dir string) error {
	groups, err := findCgroups(filepath.Base(dir))
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return groups.remove()
	}
	return errors.Join(groups.remove(), restoreSettings(dir), os.RemoveAll(dir))
}
