package cri

import (
	"testing"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/store"
)

// TestMountsAtOnePath: an image and a directory of the host may be mounted at one path, the
// later over the earlier, as on any runtime.
func TestMountsAtOnePath(t *testing.T) {
	mounts := []*v1.Mount{{ContainerPath: "/x", Image: &v1.ImageSpec{Image: "a"}}, {ContainerPath: "/x", HostPath: "/tmp"}}
	got := statusMounts(&store.Container{
		Config: &v1.ContainerConfig{Mounts: mounts}, VolumeRefs: map[string]string{"/x": "a@sha256:1"},
	})
	if len(got) != 2 || got[0].GetImage().GetImageRef() != "a@sha256:1" || got[1].GetHostPath() != "/tmp" || got[1].GetImage() != nil {
		t.Errorf("they are %v", got)
	}
}

func TestConditionsOfOthers(t *testing.T) {
	s := paperServer(t, paperContainer{}, &paperImages{})
	s.opts.Network, s.opts.Drivers = network{}, nil
	types := func() (all []string) {
		resp, err := s.Status(t.Context(), &v1.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range resp.GetStatus().GetConditions() {
			all = append(all, c.GetType())
		}
		return all
	}
	if got := types(); len(got) != 2 {
		t.Errorf("without others: %v", got)
	}
	s.opts.Conditions = func() []Condition {
		return []Condition{{Type: "MachinesReady", Reason: "Starting", Message: "wait"}}
	}
	if got := types(); len(got) != 3 || got[0] != v1.RuntimeReady || got[1] != v1.NetworkReady || got[2] != "MachinesReady" {
		t.Errorf("conditions: %v", got)
	}
}
