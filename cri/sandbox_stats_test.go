package cri

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/netns"
)

// wiredPod has the interfaces of a table of the kernel's.
type wiredPod struct {
	sandbox.Sandbox
	table string
}

func (p wiredPod) Stat(_ context.Context, s *sandbox.Stat) error {
	s.Network = netns.ParseCounters([]byte(p.table))
	return nil
}

// Interfaces that a pod makes for itself, of whatever name and however many, keep nobody's
// figures back: an answer with one text that is none would not be sent at all.
func TestFiguresOfHostileInterfaces(t *testing.T) {
	var table strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&table, "d\xff%d: 1 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0\n", i)
	}
	table.WriteString("eth0: 7 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0\n")
	s := paperServer(t, paperContainer{}, &paperImages{})
	s.live.setSandbox("s1", wiredPod{table: table.String()})
	stats, err := s.ListPodSandboxStats(t.Context(), &v1.ListPodSandboxStatsRequest{})
	if err != nil || len(stats.GetStats()) != 1 {
		t.Fatalf("%v, %v", stats, err)
	}
	if n := stats.GetStats()[0].GetLinux().GetNetwork(); n.GetDefaultInterface().GetName() != "eth0" || len(n.GetInterfaces()) != 255 {
		t.Errorf("%d interfaces beside %v", len(n.GetInterfaces()), n.GetDefaultInterface())
	}
	metrics, err := s.ListPodSandboxMetrics(t.Context(), &v1.ListPodSandboxMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []proto.Message{stats, metrics} {
		if b, err := proto.Marshal(m); err != nil || len(b) > 1<<19 {
			t.Errorf("%T: %d bytes, %v", m, len(b), err)
		}
	}
}
