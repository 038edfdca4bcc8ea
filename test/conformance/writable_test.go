package conformance

import (
	"strings"
	"testing"

	"github.com/cricket-cri/cricket/cri/stat"
	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/vmsandbox/node"
)

// TestVirtualWritableLayer: what a container writes to its root lies on a disk and not in
// the machine's memory, is seen in its figures, and fills nobody else's disk.
func TestVirtualWritableLayer(t *testing.T) {
	const size = 1280 // MiB
	h := NewVirtualHull(t, func(o *node.Options) { o.Shape.MemoryMiB, o.Shape.MaxMemoryMiB, o.DiskMiB = 256, 256, size })
	s := h.pod(t)
	// Of its memory a container may use an eighth of what it writes.
	c := h.shell(t, "writer", "dd if=/dev/zero of=/large bs=1M count=1024 2>/dev/null && stat -c %s /large; trap 'exit 0' TERM; while :; do sleep 0.2; done")
	c.Resources = &runtime.Resources{MemoryLimit: 128 << 20}
	writer := start(t, s, c)
	eventually(t, func() bool { return strings.Contains(logged(t, c.LogPath), "1073741824") })
	usage, err := writer.(stat.Measurer).DiskUsage(limited(t))
	if err != nil || usage.Bytes < 1<<30 || usage.Bytes > size<<20 {
		t.Errorf("usage = %+v, %v", usage, err)
	}
	full := h.shell(t, "full", "dd if=/dev/zero of=/more bs=1M count=4096 2>&1 | grep -o 'No space left on device'; rm /more; echo yes > /after && cat /after")
	if out, exit := h.run(t, s, full); out != "stdout F No space left on device\nstdout F yes\n" || exit.Code != 0 {
		t.Errorf("a disk that is full: %q %+v", out, exit)
	}
	if out := output(t, writer, "dd if=/dev/zero of=/other bs=1M count=64 2>/dev/null && echo fits"); out != "fits" {
		t.Errorf("beside a container whose disk is full: %q", out)
	}
}
