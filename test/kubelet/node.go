package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// node is a machine with cricketd and a kubelet. It is for one goroutine.
type node struct {
	daemon  *harness.Daemon
	kubelet *kubelet
	runtime cri.RuntimeServiceClient
	conn    *grpc.ClientConn
	close   func()
	before  harness.Snapshot // with both daemons running, without the pod
	pod     pod              // as step "the pod runs" found it
}

// withoutMachines is a configuration without virtual machines: those that a daemon keeps
// ready for pods would look like something left behind.
const withoutMachines = "[vm]\nimage = \"/nowhere\"\n"

// newNode starts cricketd, a registry beside it and the kubelet.
func newNode(ctx context.Context, o options) (*node, error) {
	if err := harness.PrivateState(); err != nil {
		return nil, err
	}
	set, err := images.Open(os.Getenv(imagesEnv))
	if err != nil {
		return nil, err
	}
	server, address, err := images.NewRegistry(set).Serve("127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	paths, err := harness.MakePaths(filepath.Join(harness.Dir(), "run"), address)
	if err != nil {
		return nil, err
	}
	// The logs stay when the node is gone.
	reports, err := filepath.Abs(o.reports)
	if err != nil {
		return nil, err
	}
	paths.Log = filepath.Join(reports, "kubelet-cricketd.log")
	kubeletLog := filepath.Join(reports, "kubelet.log")
	err = errors.Join(os.MkdirAll(reports, 0o755), os.RemoveAll(paths.Log), os.RemoveAll(kubeletLog))
	if err != nil {
		return nil, err
	}
	config := filepath.Join(paths.Dir, "config.toml")
	if err := os.WriteFile(config, []byte(withoutMachines), 0o644); err != nil {
		return nil, err
	}
	args := append([]string{"--config", config}, o.arguments...)
	n := &node{daemon: harness.NewDaemon(paths, harness.Cricketd(os.Getenv(cricketdEnv), args...))}
	if n.conn, err = n.daemon.Dial(); err != nil {
		return nil, err
	}
	n.runtime = cri.NewRuntimeServiceClient(n.conn)
	n.kubelet = newKubelet(os.Getenv(kubeletEnv), kubeletLog, paths.Socket)
	n.close = func() {
		_ = errors.Join(n.kubelet.Stop(), n.conn.Close(), n.daemon.Kill(), server.Close())
	}
	if err := errors.Join(n.daemon.Start(ctx), n.daemon.WarmUp(ctx)); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// observe lists what the node holds.
func (n *node) observe() (harness.Snapshot, error) {
	p := n.daemon.Paths
	return harness.Observe(p.Leases, filepath.Join(p.Root, "containers"), filepath.Join(p.State, "sandboxes"),
		filepath.Join(p.State, "containers"), "/var/lib/kubelet/pods", "/var/log/pods", "/var/log/containers")
}

// left lists what the node has more than before the pod. Images stay, and the daemons
// were started anew.
func (n *node) left() error {
	after, err := n.observe()
	if err != nil {
		return err
	}
	layers := "mount " + filepath.Join(n.daemon.Paths.State, "layers") + "/"
	daemons := []string{os.Getenv(kubeletEnv), n.daemon.Paths.Socket}
	var leaks []string
	for _, l := range n.before.Leaks(after) {
		ours := strings.HasPrefix(l, layers)
		for _, d := range daemons {
			ours = ours || (strings.HasPrefix(l, "process ") && strings.Contains(l, d))
		}
		if !ours {
			leaks = append(leaks, l)
		}
	}
	for _, l := range after.Leaks(n.before) {
		if strings.HasPrefix(l, "cgroup ") {
			return fmt.Errorf("the kubelet's %s is gone", l)
		}
	}
	if len(leaks) > 0 {
		return fmt.Errorf("left behind:\n  %s", strings.Join(leaks, "\n  "))
	}
	return nil
}
