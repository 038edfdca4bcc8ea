package node

import (
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/cricket-cri/cricket/vmsandbox"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/qemu"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// platformOf is what machines of a shape depend on, but for the hypervisor's version.
func platformOf(s vmm.Shape, diskBytes int64) (vmsandbox.Platform, error) {
	p := vmsandbox.Platform{
		Machine: s.Machine, Accelerator: s.Accelerator, CPU: qemu.Processor(s),
		VCPUs: s.VCPUs, MemoryMiB: s.MemoryMiB, MaxMemoryMiB: s.MaxMemoryMiB, DiskBytes: diskBytes,
		Agent: agent.Version,
	}
	for path, sum := range map[string]*digest.Digest{s.Kernel: &p.Kernel, s.Initrd: &p.Initrd} {
		f, err := os.Open(path)
		if err != nil {
			return p, fmt.Errorf("read what machines boot: %w", err)
		}
		*sum, err = digest.Canonical.FromReader(f)
		f.Close()
		if err != nil {
			return p, fmt.Errorf("read what machines boot: %w", err)
		}
	}
	return p, nil
}
