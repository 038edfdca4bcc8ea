package accel

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// key is everything that a verdict depends on.
type key struct {
	Host       string `json:"host"`       // release and build of the host's kernel
	Hypervisor string `json:"hypervisor"` // vmm.Hypervisor.Version
	CPU        string `json:"cpu"`        // model of the host's processor
	Microcode  string `json:"microcode"`
	Guest      string `json:"guest"` // the guest's kernel and initial RAM file system
	Model      string `json:"model"` // machine and processor of the guest
}

// entry is the content of the cache.
type entry struct {
	Key     key     `json:"key"`
	Verdict Verdict `json:"verdict"`
}

func surroundings(ctx context.Context, o Options) (key, error) {
	version, err := o.Hypervisor.Version(ctx)
	if err != nil {
		return key{}, err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return key{}, fmt.Errorf("ask for the kernel's release: %w", err)
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return key{}, fmt.Errorf("ask for the processor: %w", err)
	}
	k := key{
		Host:       unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Version[:]),
		Hypervisor: version,
		Guest:      identify(o.Shape.Kernel) + " " + identify(o.Shape.Initrd),
		Model:      fmt.Sprintf("%s %q %d", o.Shape.Machine, o.Shape.CPU, o.Shape.VCPUs),
	}
	k.CPU, k.Microcode = processor(string(info))
	return k, nil
}

// processor reads the model and the microcode of the first processor of /proc/cpuinfo.
func processor(info string) (model, microcode string) {
	first, _, _ := strings.Cut(info, "\n\n")
	for line := range strings.Lines(first) {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(name) {
		case "vendor_id", "cpu family", "model", "model name", "stepping":
			model = strings.TrimSpace(model + " " + value)
		case "microcode":
			microcode = value
		}
	}
	return model, microcode
}

// identify tells whether a file is still the same without reading it.
func identify(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return path
	}
	return fmt.Sprintf("%s %d %s", path, st.Size(), st.ModTime().UTC().Format(time.RFC3339Nano))
}

// recall reads the cache. What cannot be read was never found out.
func recall(path string, now key) (Verdict, bool) {
	if path == "" {
		return Verdict{}, false
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Verdict{}, false
	}
	var e entry
	if json.Unmarshal(b, &e) != nil || e.Key != now || (e.Verdict.Accelerator != KVM && e.Verdict.Accelerator != TCG) {
		return Verdict{}, false
	}
	return e.Verdict, true
}

// remember replaces the cache as a whole.
func remember(path string, now key, v Verdict) error {
	if path == "" {
		return nil
	}
	b, err := json.MarshalIndent(entry{Key: now, Verdict: v}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
