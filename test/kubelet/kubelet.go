package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/test/harness"
)

// What the test expects of the kubelet's configuration.
const (
	manifests   = "/var/lib/kubelet/manifests"
	hostname    = "cricket-node"
	nodeIP      = "10.89.0.1" // the bridge's; the node has no other link
	logMaxBytes = 100 << 10
	logMaxFiles = 3
)

// The driver named here is the one that cricketd does not use in the node: the kubelet
// must believe the runtime. Everybody who reaches the loopback address may do anything.
const configuration = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://%s
cgroupDriver: systemd
failCgroupV1: false
failSwapOn: false
staticPodPath: %s
volumePluginDir: /var/lib/kubelet/volume-plugins
fileCheckFrequency: 1s
syncFrequency: 5s
address: 127.0.0.1
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
containerLogMaxSize: "%d"
containerLogMaxFiles: %d
containerLogMonitorInterval: 3s
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 1Mi, nodefs.available: 0%%, nodefs.inodesFree: 0%%, imagefs.available: 0%%}
featureGates: {PodAndContainerStatsFromCRI: %[5]t, EventedPLEG: %[5]t}
`

// kubelet is one kubelet process at a time.
type kubelet struct {
	path, log, socket string
	modern            bool // figures and events come from the runtime
	cmd               *exec.Cmd
	ended             chan struct{}
}

func newKubelet(path, log, socket string) *kubelet {
	return &kubelet{path: path, log: log, socket: socket}
}

// start does not wait until it answers.
func (k *kubelet) start() error {
	if err := os.MkdirAll(manifests, 0o755); err != nil {
		return err
	}
	config := filepath.Join(harness.Dir(), "kubelet.yaml")
	text := fmt.Sprintf(configuration, k.socket, manifests, logMaxBytes, logMaxFiles, k.modern)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	log, err := os.OpenFile(k.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	c := exec.Command(k.path, "--config", config, "--hostname-override", hostname, "--node-ip", nodeIP, "--v", "2")
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		return fmt.Errorf("start the kubelet: %w", err)
	}
	ended := make(chan struct{})
	k.cmd, k.ended = c, ended
	go func() {
		_ = c.Wait()
		close(ended)
	}()
	return nil
}

// alive is an error if the kubelet has ended.
func (k *kubelet) alive() error {
	select {
	case <-k.ended:
		return errors.New("the kubelet has ended; see " + k.log)
	default:
		return nil
	}
}

// stop ends it with SIGTERM, or with SIGKILL if that is not enough.
func (k *kubelet) stop() error {
	if k.cmd == nil {
		return nil
	}
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := k.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("signal the kubelet: %w", err)
		}
		select {
		case <-k.ended:
			k.cmd = nil
			return nil
		case <-time.After(20 * time.Second):
		}
	}
	return errors.New("the kubelet does not end")
}

// said tells whether the kubelet has logged all the given words in one line.
func (k *kubelet) said(words ...string) error {
	data, err := os.ReadFile(k.log)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(data) {
		all := true
		for _, w := range words {
			all = all && bytes.Contains(line, []byte(w))
		}
		if all {
			return nil
		}
	}
	return fmt.Errorf("the kubelet's log has no line with %q", words)
}
