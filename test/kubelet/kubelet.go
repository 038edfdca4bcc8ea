package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

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
	harness.Process
	socket string
	modern bool // figures and events come from the runtime
}

func newKubelet(path, log, socket string) *kubelet {
	k := &kubelet{socket: socket}
	k.Process = harness.Process{Name: "the kubelet", Log: log, Command: func() (*exec.Cmd, error) { return k.command(path) }}
	return k
}

func (k *kubelet) command(path string) (*exec.Cmd, error) {
	if err := os.MkdirAll(manifests, 0o755); err != nil {
		return nil, err
	}
	config := filepath.Join(harness.Dir(), "kubelet.yaml")
	text := fmt.Sprintf(configuration, k.socket, manifests, logMaxBytes, logMaxFiles, k.modern)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	return exec.Command(path, "--config", config, "--hostname-override", hostname, "--node-ip", nodeIP, "--v", "2"), nil
}

// said tells whether the kubelet has logged all the given words in one line.
func (k *kubelet) said(words ...string) error {
	data, err := os.ReadFile(k.Log)
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
