package cluster

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// dropIns is where the kubelet looks for changes of its configuration.
func (c *Cluster) dropIns() string { return filepath.Join(c.dir, "kubelet.d") }

// ConfigureKubelet starts the kubelet again with the given fields of its configuration
// changed, as YAML; with none it has its first configuration back.
func (c *Cluster) ConfigureKubelet(fields string) error {
	if err := c.dropIn("50-test.conf", fields); err != nil {
		return err
	}
	return c.RestartKubelet()
}

// dropIn writes a file of changes of the kubelet's configuration, or removes it if there
// are none.
func (c *Cluster) dropIn(name, fields string) error {
	file := filepath.Join(c.dropIns(), name)
	if fields == "" {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	text := "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n" + fields + "\n"
	return os.WriteFile(file, []byte(text), 0o644)
}

// RestartKubelet kills the kubelet and starts another.
func (c *Cluster) RestartKubelet() error {
	return errors.Join(c.Kubelet.Kill(), c.Kubelet.Start())
}

// Reboot takes from the node what a reboot takes, without a warning to anybody, and
// starts everything again. The node may say for a while what it said before.
func (c *Cluster) Reboot(ctx context.Context) error {
	// The programs are killed twice: here they are known to be.
	if err := errors.Join(c.Kubelet.Kill(), c.Runtime.Kill()); err != nil {
		return err
	}
	if err := c.stop(); err != nil {
		return err
	}
	c.control, c.Kubelet, c.Runtime = nil, nil, nil
	if err := c.boot.Reboot(); err != nil {
		return err
	}
	return c.do(ctx, c.bootSteps())
}
