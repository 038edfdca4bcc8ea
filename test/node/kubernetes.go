package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cricket-cri/cricket/hack/tools"
	"github.com/cricket-cri/cricket/test/images"
)

// etcdTag is that of the image of etcd that kubeadm of this version asks for. What is in it
// here is the version that the project's other clusters have.
const etcdTag = "3.7.0-0"

// buildKubernetes makes a disk with what kubeadm's users install, the images that it asks
// for, and the project's files for operators.
func (l *lab) buildKubernetes(ctx context.Context) (disk string, err error) {
	say := func(format string, a ...any) { fmt.Printf(format+"\n", a...) }
	b := tools.Builder{Cache: l.tools, Say: say}
	programs := map[string]string{}
	for _, t := range append(tools.Cluster(), tools.Kubernetes("cmd/kubeadm")) {
		if programs[t.Name], err = b.Build(ctx, t); err != nil {
			return "", err
		}
	}
	set, err := images.BuildControlPlane(ctx, images.Options{Cache: l.tools, Say: say}, images.ControlPlane{
		Programs: programs, Version: tools.KubernetesVersion, EtcdTag: etcdTag, CoreDNSTag: tools.CoreDNSVersion,
	})
	if err != nil {
		return "", err
	}
	root := filepath.Join(l.cache, "kubernetes")
	if err := os.RemoveAll(root); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		return "", err
	}
	parts := map[string]string{set.Dir(): "images", "hack/kubernetes": "files"}
	for _, name := range []string{"kubelet", "kubectl", "kubeadm"} {
		parts[programs[name]] = "bin/" + name
	}
	for from, to := range parts {
		if err := command(ctx, "cp", "-rL", from, filepath.Join(root, to)); err != nil {
			return "", err
		}
	}
	disk = filepath.Join(l.cache, "kubernetes.img")
	if err := os.RemoveAll(disk); err != nil {
		return "", err
	}
	return disk, command(ctx, "mke2fs", "-q", "-t", "ext4", "-d", root, disk, "2G")
}

// kubeadm brings up a control plane, reboots it, and takes it away again.
func kubeadm(ctx context.Context, m *machine) (err error) {
	if m.kubernetes, err = m.buildKubernetes(ctx); err != nil {
		return err
	}
	for _, task := range []string{"kubeadm-init", "kubeadm-reboot"} {
		if _, err := m.do(ctx, task, "node.cgroup=systemd", "node.kubernetes=1"); err != nil {
			return err
		}
	}
	return nil
}
