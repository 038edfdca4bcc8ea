package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// scenario is one thing that a node goes through.
type scenario struct {
	name, what string
	run        func(ctx context.Context, m *machine) error
}

// powerCuts is how often the machine loses its power in one scenario.
const powerCuts = 20

func scenarios() []scenario {
	return []scenario{
		{"critest-cgroupfs", "critest, AppArmor specs included, with the cgroupfs driver", single("critest", "node.cgroup=cgroupfs")},
		{"critest-systemd", "critest with the systemd cgroup driver", single("critest", "node.cgroup=systemd")},
		{"critest-loop", "critest with layers over loop devices, as before Linux 6.12", single("critest", "node.cgroup=systemd", "node.loop=1")},
		{"restart-cgroupfs", "daemon and monitor restarted and killed under pods", single("restart", "node.cgroup=cgroupfs")},
		{"restart-systemd", "the same with the systemd cgroup driver", single("restart", "node.cgroup=systemd")},
		{"reboot", "a reboot with pods: they are listed as ended, and can be removed", reboot},
		{"kubeadm", "kubeadm's control plane on Cricket, a reboot of it, reset and uninstall", kubeadm},
		{"power-loss", fmt.Sprintf("%d power cuts during pulls and pod starts", powerCuts), powerLoss},
	}
}

// single is a scenario of one boot.
func single(task string, settings ...string) func(context.Context, *machine) error {
	return func(ctx context.Context, m *machine) error {
		_, err := m.do(ctx, task, settings...)
		return err
	}
}

func reboot(ctx context.Context, m *machine) error {
	if _, err := m.do(ctx, "reboot-before", "node.cgroup=systemd"); err != nil {
		return err
	}
	_, err := m.do(ctx, "reboot-after", "node.cgroup=systemd")
	return err
}

// powerLoss cuts the power at a random moment of a load of pulls and pod starts, and
// has the next boot judge what the last one left before it goes on.
func powerLoss(ctx context.Context, m *machine) error {
	for range powerCuts {
		r, err := m.boot(ctx, "load", "node.cgroup=systemd")
		if err != nil {
			return err
		}
		if err := r.waitFor(ctx, "loading"); err != nil {
			return err
		}
		select {
		case <-time.After(time.Duration(rand.IntN(12000)) * time.Millisecond):
		case <-ctx.Done():
		}
		r.powerLoss()
		if err := r.complaints(); err != nil {
			return err
		}
	}
	_, err := m.do(ctx, "load-check", "node.cgroup=systemd")
	return err
}
