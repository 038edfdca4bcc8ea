package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// wide is a pod that has what pods have: two containers of different images that share
// emptyDirs, an image as a volume, and others that have ended or are gone.
type wide struct {
	*Node
	pod            string
	p              *cri.PodSandboxConfig
	writer, reader *cri.ContainerConfig
	writing, reads string // the containers' ids
}

const (
	// writes counts on a disk, in memory and in its log; what it has open is a deleted file.
	writes = `exec 3>/data/gone; rm /data/gone; i=0
while true; do i=$((i+1)); echo $i >&3; echo $i > /data/new; mv /data/new /data/count; echo $i > /memory/count; echo line $i; usleep 20000; done`
	// readsCount follows the other container, in a file of its own.
	readsCount = `while true; do cat /data/count > /seen.new 2>/dev/null && mv /seen.new /seen; usleep 20000; done`
)

// TestVirtualCheckpointWide saves and restores such a pod, on its node and on another, and
// what was restored once more, by another daemon.
func TestVirtualCheckpointWide(t *testing.T) {
	var w *wide
	var from, to int
	dir := t.TempDir()
	t.Run("same node", func(t *testing.T) {
		n := startVirtual(t)
		w = n.wide()
		from, to = w.save(dir)
		w.goesOn(to)
		w.restoredTwice(n, dir, from, to)
		w.goesOn(w.number(w.writing, "/data/count"))
		n.removePod(t, w.pod)
	})
	if t.Failed() || w == nil {
		return
	}
	t.Run("other node", func(t *testing.T) { w.restoredTwice(startVirtual(t), dir, from, to) })
}

// restoredTwice restores the pod, saves what was restored, by another daemon, and restores that.
func (w *wide) restoredTwice(n *Node, dir string, from, to int) {
	t := n.t
	t.Helper()
	first := w.restored(n, dir, from, to)
	n.RestartDaemon()
	again := t.TempDir()
	from, to = first.save(again)
	first.goesOn(to)
	second := first.restored(n, again, from, to)
	n.removePod(t, first.pod)
	second.goesOn(to)
	n.removePod(t, second.pod)
}

// save makes a checkpoint, and says what was counted before and after.
func (w *wide) save(dir string) (from, to int) {
	w.t.Helper()
	from = w.number(w.writing, "/data/count")
	s := &saver{Node: w.Node, pod: w.pod}
	if err := s.checkpoint(func(r *cri.CheckpointPodRequest) { r.ContainerIds = []string{w.reads, w.writing} }, dir); err != nil {
		w.t.Fatalf("checkpoint: %v", err)
	}
	return from, w.number(w.writing, "/data/count")
}

// wide makes the pod and waits until both containers are at work.
func (n *Node) wide() *wide {
	w := &wide{Node: n, p: n.PodConfig()}
	w.pod = n.RunPod(w.p)
	w.writer = n.ContainerConfig("sh", "-c", writes)
	w.writer.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 300 << 20}
	w.reader = n.ContainerConfig("sh", "-c", readsCount)
	w.configure(n, w.p, w.writer, w.reader)
	gone := n.Started(w.pod, w.p, n.ContainerConfig("true"))
	n.Exited(gone, settle)
	if _, err := n.Runtime.RemoveContainer(n.t.Context(), &cri.RemoveContainerRequest{ContainerId: gone}); err != nil {
		n.t.Fatal(err)
	}
	w.reads = n.Started(w.pod, w.p, w.reader)
	ended := n.Started(w.pod, w.p, n.ContainerConfig("sh", "-c", "echo ended > /file"))
	w.writing = n.Started(w.pod, w.p, w.writer)
	n.Exited(ended, settle)
	Within(n.t, settle, "the reader sees what the writer counts", func() bool { return w.number(w.reads, "/seen") > 5 })
	return w
}

// configure gives two containers their images and volumes, those of a pod's.
func (w *wide) configure(n *Node, p *cri.PodSandboxConfig, writer, reader *cri.ContainerConfig) {
	n.t.Helper()
	dirs := filepath.Join(n.Paths.Dir, "pods", p.GetMetadata().GetUid(), "volumes/kubernetes.io~empty-dir")
	data, memory := filepath.Join(dirs, "data"), filepath.Join(dirs, "memory")
	for _, dir := range []string{data, memory} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			n.t.Fatal(err)
		}
	}
	if err := unix.Mount("tmpfs", memory, "tmpfs", 0, "size=4m"); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = unix.Unmount(memory, unix.MNT_DETACH) })
	image := n.pullSaved()
	writer.Image.Image = image
	reader.Image.Image = images.Busybox
	writer.Mounts = []*cri.Mount{
		{HostPath: data, ContainerPath: "/data"},
		{HostPath: memory, ContainerPath: "/memory"},
	}
	reader.Mounts = []*cri.Mount{
		{HostPath: data, ContainerPath: "/data", Readonly: true},
		{ContainerPath: "/model", Readonly: true, Image: &cri.ImageSpec{Image: image}},
	}
}

// number is the number in a container's file.
func (n *Node) number(id, file string) int {
	n.t.Helper()
	i, err := strconv.Atoi(strings.TrimSpace(n.Exec(id, "sh", "-c", "cat "+file+" 2>/dev/null || echo 0")))
	if err != nil {
		n.t.Fatal(err)
	}
	return i
}

// goesOn wants the pod that was saved to have felt nothing.
func (w *wide) goesOn(after int) {
	w.t.Helper()
	Within(w.t, settle, "the saved pod goes on", func() bool { return w.number(w.reads, "/seen") > after+5 })
	if got := w.Exec(w.reads, "cat", "/model/layered"); got != "second layer" {
		w.t.Errorf("the saved pod's image volume holds %q", got)
	}
}

// restored restores the pod and starts one container after the other.
func (w *wide) restored(n *Node, dir string, from, to int) *wide {
	t := n.t
	t.Helper()
	p := n.PodConfig()
	writer, _ := proto.Clone(w.writer).(*cri.ContainerConfig)
	reader, _ := proto.Clone(w.reader).(*cri.ContainerConfig)
	w.configure(n, p, writer, reader)
	answer, err := n.restore(&cri.RestorePodRequest{
		CheckpointPath: dir, Config: p, RuntimeHandler: "vm", ContainerConfigs: []*cri.ContainerConfig{writer, reader},
	})
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	ids := map[string]string{}
	for _, c := range answer.GetRestoredContainers() {
		ids[c.GetName()] = c.GetContainerId()
	}
	writing, reads := ids[writer.GetMetadata().GetName()], ids[reader.GetMetadata().GetName()]
	if got := n.containersOf(t, answer.GetPodSandboxId()); len(got) != 2 || writing == "" || reads == "" {
		t.Fatalf("the restored containers are %v, those of the answer %v", got, ids)
	}
	n.StartContainer(reads)
	seen := n.number(reads, "/seen")
	if seen < from-5 || seen > to {
		t.Errorf("the reader goes on with %d, the pod was saved between %d and %d", seen, from, to)
	}
	if state := n.Status(writing).GetState(); state != cri.ContainerState_CONTAINER_CREATED {
		t.Errorf("a container that was not started is %s", state)
	}
	if got := n.Exec(reads, "cat", "/model/layered"); got != "second layer" {
		t.Errorf("the image volume holds %q", got)
	}
	was := n.number(reads, "/data/count")
	if was < from || was > to {
		t.Errorf("the emptyDir has %d, the pod was saved between %d and %d", was, from, to)
	}
	if again := n.number(reads, "/data/count"); again != was {
		t.Errorf("the container that was not started counts: %d, %d", was, again)
	}
	n.StartContainer(writing)
	Within(t, settle, "the reader sees what the restored writer counts", func() bool { return n.number(reads, "/seen") > was+5 })
	if got := n.number(writing, "/memory/count"); got <= was {
		t.Errorf("the volume in memory has %d, it was at %d", got, was)
	}
	lines, err := strconv.Atoi(strings.TrimSpace(n.Exec(writing, "sh", "-c", "wc -l < /proc/1/fd/3")))
	if err != nil || lines <= was {
		t.Errorf("the deleted file that is open has %d lines, %v", lines, err)
	}
	return &wide{Node: n, pod: answer.GetPodSandboxId(), p: p, writer: writer, reader: reader, writing: writing, reads: reads}
}
