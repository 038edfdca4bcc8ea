package conformance

import (
	"testing"

	"github.com/cricket-cri/cricket/runtime/oci"
	"github.com/cricket-cri/cricket/sandbox"
)

// NewKernelHull is the hull of shared-kernel pods.
func NewKernelHull(t testing.TB) *Hull {
	t.Helper()
	n := NewNode(t)
	rt, err := oci.Find()
	if err != nil {
		t.Fatal(err)
	}
	rt.Root = n.Paths.State + "/oci"
	h := &Hull{Name: "kernel", Node: n, Refused: map[string]bool{}}
	h.Open = func(t testing.TB) sandbox.Driver {
		t.Helper()
		d, err := sandbox.NewDriver(sandbox.Options{
			Root: n.Paths.Root, State: n.Paths.State, Monitor: n.Monitor, Layers: n.Layers, Network: n.Network,
			Runtime: rt, Log: n.Log,
		})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	h.Driver = h.Open(t)
	return h
}
