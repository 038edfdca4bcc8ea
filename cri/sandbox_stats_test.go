package cri

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
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

// countless is a container whose processes nobody gets to the end of.
type countless struct{ paperContainer }

func (countless) Processes(ctx context.Context) (runtime.ProcessStat, error) {
	<-ctx.Done()
	return runtime.ProcessStat{Processes: 1}, ctx.Err()
}

type ownKernel struct{ paperDriver }

func (ownKernel) Features() sandbox.Features { return sandbox.Features{OwnKernel: true} }

// withPods adds so many pods of a handler, with a running container each.
func withPods(t *testing.T, s *Server, handler string, pods int, c runtime.Container) {
	t.Helper()
	for i := range pods {
		id := fmt.Sprintf("%s%d", handler, i)
		if err := s.store.Sandboxes.Add(&store.Sandbox{ID: id, Boot: "b", Handler: handler, ReadyAt: time.Now(), Config: podConfig(id)}); err != nil {
			t.Fatal(err)
		}
		r := &store.Container{ID: "c" + id, SandboxID: id, Boot: "b", Config: containerConfig("c"), MadeAt: time.Now(), StartedAt: time.Now()}
		if err := s.store.Containers.Add(r); err != nil {
			t.Fatal(err)
		}
		s.live.setSandbox(id, paperPod{})
		s.live.setContainer("c"+id, c)
	}
}

// counted are the containers whose processes are in the metrics, and those that are there.
func counted(t *testing.T, s *Server) (counted, all []string) {
	t.Helper()
	resp, err := s.ListPodSandboxMetrics(t.Context(), &v1.ListPodSandboxMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range resp.GetPodMetrics() {
		for _, c := range p.GetContainerMetrics() {
			all = append(all, c.GetContainerId())
			for _, m := range c.GetMetrics() {
				if m.GetName() == "container_processes" {
					counted = append(counted, c.GetContainerId())
				}
			}
		}
	}
	return counted, all
}

// Containers of which it takes for ever to count the processes keep no figures back but that.
func TestCountingTakesForEver(t *testing.T) {
	for handler, within := range map[string]time.Duration{"paper": time.Second, "vm": 3500 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			s := paperServer(t, paperContainer{}, &paperImages{})
			s.opts.Drivers["vm"] = ownKernel{}
			withPods(t, s, handler, 5, countless{})
			began := time.Now()
			counted, all := counted(t, s)
			if took := time.Since(began); took > within {
				t.Errorf("%s: took %s", handler, took)
			}
			if len(all) != 6 || len(counted) != 1 || counted[0] != "run" {
				t.Errorf("%s: figures of %v, with processes of %v", handler, all, counted)
			}
		})
	}
}
