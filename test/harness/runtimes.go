package harness

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// Starter makes the command that starts a runtime in the foreground.
type Starter func(p Paths) (*exec.Cmd, error)

// Cricketd starts the binary at path with further arguments.
func Cricketd(path string, args ...string) Starter {
	return func(p Paths) (*exec.Cmd, error) {
		all := []string{
			"--socket", p.Socket, "--root", p.Root, "--state", p.State, "--hosts-dir", p.Hosts,
			"--cni-conf-dir", p.CNIConf, "--log-level", "debug",
		}
		return exec.Command(path, append(all, args...)...), nil
	}
}

// Containerd starts containerd with runc; bin holds containerd and its shim.
func Containerd(bin, runc string) Starter {
	return ContainerdWith(bin, map[string]string{"runc": runc})
}

// ContainerdWith starts containerd with OCI runtimes by the names of their handlers; runc is
// the default one. The loopback device is set up by containerd itself, which is quicker than
// the plugin for it; everything else is as containerd has it by default.
func ContainerdWith(bin string, runtimes map[string]string) Starter {
	return func(p Paths) (*exec.Cmd, error) {
		config := filepath.Join(p.Dir, "containerd.toml")
		text := fmt.Sprintf(containerdConfig, p.Root, p.State, p.Socket, p.Hosts, p.CNIConf)
		for _, name := range slices.Sorted(maps.Keys(runtimes)) {
			text += fmt.Sprintf(containerdRuntime, name, runtimes[name])
		}
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			return nil, err
		}
		c := exec.Command(filepath.Join(bin, "containerd"), "--config", config)
		c.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
		return c, nil
	}
}

// restrict_oom_score_adj: a test machine may lack CAP_SYS_RESOURCE.
const containerdConfig = `version = 3
root = %q
state = %q
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = %q
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "registry.k8s.io/pause:3.10.2"
[plugins."io.containerd.cri.v1.images".registry]
config_path = %q
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]
conf_dir = %q
use_internal_loopback = true
`

const containerdRuntime = `[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.%[1]s]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.%[1]s.options]
BinaryName = %[2]q
SystemdCgroup = false
`
