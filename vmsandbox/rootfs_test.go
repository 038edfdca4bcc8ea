package vmsandbox

import (
	"errors"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
)

// lowerOf is the directory of a container's image in the guest.
func lowerOf(w *world, p *pod, c runtime.Container) string {
	return machineOf(w, p).monitor.containers[c.(*container).id].request.Rootfs.Lower[0]
}

func TestMappedImages(t *testing.T) {
	w := newWorld(t)
	w.rootfs = RootfsDAX
	p := running(t, w, podConfig(t))
	for _, step := range []struct {
		layers []string
		want   string
	}{
		{[]string{"a", "b"}, "map1"},
		{[]string{"a", "b"}, "map1"},
		{[]string{"c", "b"}, "map3"},
		{[]string{"a"}, "map1"},               // begins with the same file
		{[]string{"b"}, "ro0"},                // is the second file of others
		{[]string{"a", "b", "c", "d"}, "ro1"}, // too many files
		{[]string{"e", "f"}, "ro2"},           // too few ports
		{[]string{"d"}, "map4"},               // the last port
		{[]string{"e", "f"}, "ro2"},           // where it was
	} {
		if got := lowerOf(w, p, started(t, p, containerConfig(step.layers...))); got != "/cricket/disks/"+step.want {
			t.Errorf("image %v is in %s, not in %s", step.layers, got, step.want)
		}
	}
	if !w.has("mount erofs [1 2] /cricket/disks/map1") || w.has("set ro0 2") {
		t.Errorf("calls = %q", w.calls)
	}
	// The next daemon knows what is mapped, whatever its own machines are to do.
	w.rootfs = RootfsDisk
	s, err := w.driver().Attach(t.Context(), p.Record())
	if err != nil {
		t.Fatal(err)
	}
	before := len(w.calls)
	again := s.(*pod)
	if got := lowerOf(w, p, started(t, again, containerConfig("a", "b"))); got != "/cricket/disks/map1" {
		t.Errorf("after a restart the image is in %s", got)
	}
	if slices.Contains(w.calls[before:], "mount erofs [1 2] /cricket/disks/map1") || slices.Contains(w.calls[before:], "map [1 2]") {
		t.Errorf("calls after a restart = %q", w.calls[before:])
	}
}

// An attempt that broke off is made again, with what is left of it.
func TestMappingBreaksOff(t *testing.T) {
	w := newWorld(t)
	w.rootfs = RootfsDAX
	p := running(t, w, podConfig(t))
	for _, call := range []string{"map [1 2]", "mount erofs [1 2] /cricket/disks/map1"} {
		w.failing = call
		if _, err := p.NewContainer(t.Context(), containerConfig("a", "b")); !errors.Is(err, errBroken) {
			t.Errorf("%s fails: %v", call, err)
		}
	}
	w.failing = ""
	if got := lowerOf(w, p, started(t, p, containerConfig("a", "b"))); got != "/cricket/disks/map1" {
		t.Errorf("the image is in %s", got)
	}
	w.failing, w.failure = "mount erofs [3 4] /cricket/disks/map3", errdefs.ErrUnavailable
	if got := lowerOf(w, p, started(t, p, containerConfig("c", "d"))); got != "/cricket/disks/ro0" {
		t.Errorf("an image that the guest cannot mount is in %s", got)
	}
}

func TestDirectDisks(t *testing.T) {
	w := newWorld(t)
	w.rootfs = RootfsDirect
	p := running(t, w, podConfig(t))
	started(t, p, containerConfig("a", "b"))
	if !w.has("set ro0 direct") || len(machineOf(w, p).mapped) > 0 {
		t.Errorf("calls = %q", w.calls)
	}
}
