package volume

import (
	"os"
	"testing"

	"github.com/cricket-cri/cricket/runtime"
)

// TestKubeletSeesDisks: in the kubelet's directory of an emptyDir there is the disk that
// holds it, also where another mount has that directory; of a disk that holds several,
// nothing is there. It goes with the pod, but not with one of before.
func TestKubeletSeesDisks(t *testing.T) {
	p := newPod(t)
	p.disks = []string{p.base + "/disk-0", p.base + "/disk-1"}
	for _, file := range p.disks {
		p.write(file, "a disk")
	}
	// The kubelet's directory is a bind mount: no link leads into it from outside.
	p.mkdir(p.base+"/disk/pods/uid-2", 0o755)
	p.mount("", p.base+"/disk", p.base+"/kubelet", "")
	empty := p.base + "/kubelet/pods/uid-2/volumes/kubernetes.io~empty-dir/"
	for _, name := range []string{"a", "b", "c"} {
		p.mkdir(empty+name, 0o777)
		for range 2 {
			p.add("app", runtime.Mount{Source: empty + name})
		}
	}
	seen := func(name string) uint64 {
		if _, err := os.Lstat(empty + name + "/" + diskName); err != nil {
			return 0
		}
		return inode(t, empty+name+"/"+diskName)
	}
	for name, want := range map[string]uint64{"a": inode(t, p.disks[0]), "b": inode(t, p.disks[1]), "c": 0} {
		if got := seen(name); got != want {
			t.Errorf("in emptyDir %s file %d is seen, want %d", name, got, want)
		}
	}

	// The machine dies, and the pod has another one before this Set is closed.
	old := p.set
	next := p.base + "/disk-next"
	p.write(next, "a disk")
	p.disks = []string{next}
	p.set = p.open(Options{Dir: p.machine})
	p.add("app", runtime.Mount{Source: empty + "a"})
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	if got := seen("a"); got != inode(t, next) {
		t.Errorf("in emptyDir a file %d is seen, want that of the next machine, %d", got, inode(t, next))
	}
	if got := seen("b"); got != 0 {
		t.Errorf("in emptyDir b file %d is seen when its pod has gone", got)
	}
	if err := p.set.Close(); err != nil {
		t.Fatal(err)
	}
	if got := seen("a"); got != 0 {
		t.Errorf("in emptyDir a file %d is seen when its pod has gone", got)
	}
}
