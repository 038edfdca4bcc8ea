package workload

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
	"github.com/cricket-cri/cricket/test/integration"
)

const (
	floodRounds = 5
	floodExecs  = 40 // of every neighbour, in every round, without the flood and with it
)

// neighbour is a pod beside the one that floods, and how long a command took there.
type neighbour struct {
	name, container string
	calm, flooded   []time.Duration
}

// flood is what a guest does to the host. Its container has all privileges.
type flood struct {
	command []string
	// sent is how many bytes have come out of the machine, least how many have to while
	// commands are measured.
	sent  func(n *node, p *pod, id string, c *cri.ContainerConfig) int
	least int
}

func floods() map[string]flood {
	return map[string]flood{
		"log": {[]string{"spew", "1000000000000000", "100"}, func(n *node, p *pod, _ string, c *cri.ContainerConfig) int {
			st, err := os.Stat(filepath.Join(p.config.GetLogDirectory(), c.GetLogPath()))
			if err != nil {
				return 0
			}
			return int(st.Size())
		}, 1 << 20},
		// The machine's log is no longer carried over, but the daemon's own channel is whole:
		// the pod goes on, and so does the flood, of which the host takes less and less.
		"garbage": {[]string{"hostile", "cricket.monitor"}, func(n *node, _ *pod, id string, _ *cri.ContainerConfig) int {
			text, code := n.try(id, time.Minute, "cat", "/flooded")
			if code != 0 {
				return 0 // it has only just started
			}
			sent, err := strconv.Atoi(strings.TrimSpace(text))
			if err != nil {
				n.t.Errorf("the hostile guest says %q", text)
			}
			return sent
		}, 0},
	}
}

// TestFloodingGuest measures how long commands take in a machine and in a shared-kernel pod
// beside a machine that floods the host: the slowest of a hundred at most twice as long as
// beside one that computes as much and is quiet.
func TestFloodingGuest(t *testing.T) {
	n := start(t, images.Busybox)
	for name, f := range floods() {
		t.Run(name, func(t *testing.T) {
			n := &node{n.For(t), t}
			beside := []*neighbour{n.neighbour("vm"), n.neighbour("crun")}
			// The slowest of a hundred are few: what looks slow is measured for three times as
			// long before it is called so.
			for i := range 3 * floodRounds {
				if i >= floodRounds && !slices.ContainsFunc(beside, (*neighbour).suffers) {
					break
				}
				n.floodOnce(f, beside)
			}
			for _, b := range beside {
				calm, flooded := quantile(b.calm, 0.99), quantile(b.flooded, 0.99)
				t.Logf("%s: exec p50 %s, p99 %s beside a busy machine; p50 %s, p99 %s beside the flood (%d each)",
					b.name, quantile(b.calm, 0.5), calm, quantile(b.flooded, 0.5), flooded, len(b.calm))
				if b.suffers() {
					t.Errorf("%s: p99 is %s beside the flood, and %s without", b.name, flooded, calm)
				}
			}
		})
	}
}

// neighbour runs a pod of a handler.
func (n *node) neighbour(handler string) *neighbour {
	n.t.Helper()
	c := n.PodConfig()
	r, err := n.Runtime.RunPodSandbox(n.t.Context(), &cri.RunPodSandboxRequest{Config: c, RuntimeHandler: handler})
	if err != nil {
		n.t.Fatalf("run pod: %v", err)
	}
	b := &neighbour{name: handler, container: n.Run(r.GetPodSandboxId(), c, "sleep", "36000")}
	b.measure(n, 5) // what comes first takes longer
	return b
}

// suffers tells whether the flood costs it more than it may.
func (b *neighbour) suffers() bool {
	return quantile(b.flooded, 0.99) > 2*quantile(b.calm, 0.99)
}

// measure runs commands one after the other.
func (b *neighbour) measure(n *node, count int) []time.Duration {
	n.t.Helper()
	took := make([]time.Duration, count)
	for i := range took {
		began := time.Now()
		n.Exec(b.container, "true")
		took[i] = time.Since(began)
	}
	return took
}

// floodOnce measures beside a machine that computes, and then beside the same one when it
// floods.
func (n *node) floodOnce(f flood, beside []*neighbour) {
	n.t.Helper()
	p := n.run(func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	defer n.remove(p)
	busy, _ := p.container(images.Busybox, nil, "sh", "-c", "while :; do :; done")
	for _, b := range beside {
		b.calm = append(b.calm, b.measure(n, floodExecs)...)
	}
	n.stop(busy, 0)
	id, c := p.container(images.Busybox, func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{Privileged: true}
	}, f.command...)
	integration.Within(n.t, 30*time.Second, "the flood begins", func() bool { return f.sent(n, p, id, c) > 1<<20 })
	began, before := time.Now(), f.sent(n, p, id, c)
	for _, b := range beside {
		b.flooded = append(b.flooded, b.measure(n, floodExecs)...)
	}
	took, sent := time.Since(began), f.sent(n, p, id, c)-before
	n.t.Logf("%d KiB in %s came out of the machine", sent>>10, took.Round(time.Second/10))
	if sent < f.least {
		n.t.Error("the guest has hardly flooded the host")
	}
}

func quantile(of []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[max(0, int(q*float64(len(sorted))+0.5)-1)].Round(time.Second / 10000)
}

// TestSeizedMachine has a guest write garbage into the channel to the daemon: its own pod
// dies, and others do not notice.
func TestSeizedMachine(t *testing.T) {
	n := start(t, images.Busybox)
	beside := []*neighbour{n.neighbour("vm"), n.neighbour("crun")}
	p := n.run(func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	id, _ := p.container(images.Busybox, func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{Privileged: true}
	}, "hostile", "cricket.daemon")
	if s := n.Exited(id, 30*time.Second); s.GetReason() != "Unknown" {
		t.Errorf("a container of the seized machine has ended with %s (%d)", s.GetReason(), s.GetExitCode())
	}
	r, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err != nil || r.GetStatus().GetState() != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("the seized pod is %s: %v", r.GetStatus().GetState(), err)
	}
	for _, b := range beside {
		b.measure(n, 5)
	}
	n.remove(p)
	if log := n.LogTail(1000); !strings.Contains(log, "frame breaks the protocol") && !strings.Contains(log, "frame was cut off") {
		t.Error("the daemon's log does not say what the guest has done")
	}
}
