package cluster

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	files "github.com/cricket-cri/cricket/hack/kubernetes"
)

//go:embed kubelet.yaml
var kubeletConfig string

//go:embed coredns.yaml
var corednsManifest string

// Manifests is where the kubelet looks for static pods.
const Manifests = "/var/lib/kubelet/manifests"

func (c *Cluster) startNode(context.Context) (err error) {
	config, err := c.kubeletConfig()
	if err != nil {
		return err
	}
	c.Kubelet, err = c.start("kubelet", "--config", config, "--config-dir", c.dropIns(), "--kubeconfig", c.kubeconfig("kubelet"),
		"--node-ip", nodeIP, "--hostname-override", NodeName, "--v", "2")
	if err != nil {
		return err
	}
	return c.startControl("kube-proxy", "--kubeconfig", c.kubeconfig("kube-proxy"), "--hostname-override", NodeName,
		"--proxy-mode", "iptables", "--cluster-cidr", podCIDR, "--conntrack-max-per-core", "0")
}

// kubeletConfig writes the kubelet's configuration. The node has no name server: a pod
// that takes the node's resolver has none either.
func (c *Cluster) kubeletConfig() (string, error) {
	t, err := template.New("kubelet").Parse(kubeletConfig)
	if err != nil {
		return "", err
	}
	resolvConf := filepath.Join(c.dir, "resolv.conf")
	var b bytes.Buffer
	err = t.Execute(&b, map[string]any{
		"Socket": c.Runtime.Paths.Socket, "PKI": c.pki.dir, "DNS": dnsIP, "ResolvConf": resolvConf,
		"Manifests": Manifests, "FromCRI": c.built.Runtime == Cricket,
	})
	if err != nil {
		return "", err
	}
	file := filepath.Join(c.dir, "kubelet.yaml")
	return file, errors.Join(
		os.MkdirAll(Manifests, 0o755),
		os.MkdirAll(c.dropIns(), 0o755),
		c.dropIn("40-options.conf", c.options.Kubelet),
		os.WriteFile(resolvConf, []byte("# no name server\n"), 0o644),
		os.WriteFile(file, b.Bytes(), 0o644))
}

func (c *Cluster) nodeReady(ctx context.Context) error {
	return c.until(ctx, 2*time.Minute, func(ctx context.Context) error {
		node, err := c.Client.CoreV1().Nodes().Get(ctx, NodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, cond := range node.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return errors.New("the node does not say that it is ready")
	})
}

// startDNS applies what a cluster has besides: the name server, and the class of pods
// that are virtual machines.
func (c *Cluster) startDNS(ctx context.Context) error {
	text := strings.NewReplacer("IMAGE", c.built.CoreDNS, "ADDRESS", dnsIP).Replace(corednsManifest)
	if c.built.Runtime == Cricket {
		text += "---\n" + files.RuntimeClass
	}
	if err := c.Apply(ctx, text); err != nil {
		return err
	}
	err := c.until(ctx, 2*time.Minute, func(ctx context.Context) error {
		d, err := c.Client.AppsV1().Deployments("kube-system").Get(ctx, "coredns", metav1.GetOptions{})
		if err == nil && d.Status.ReadyReplicas == 0 {
			err = errors.New("its pod is not ready")
		}
		return err
	})
	if err != nil {
		out, _ := c.Kubectl(ctx, "logs", "-n", "kube-system", "deployment/coredns").CombinedOutput()
		err = fmt.Errorf("%w; it says: %s", err, out)
	}
	return err
}

// Apply is kubectl apply of a manifest.
func (c *Cluster) Apply(ctx context.Context, manifest string) error {
	cmd := c.Kubectl(ctx, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w\n%s", err, out)
	}
	return nil
}

// Kubectl is a command of kubectl as the administrator.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, c.built.Programs["kubectl"], append([]string{"--kubeconfig", c.Kubeconfig}, args...)...)
}
