package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// TestFullDisk fills the disk below --root to the last block while a pod runs: what
// cannot be made fails and leaves nothing, and all that is there can be deleted, over a
// restart of the daemon too.
func TestFullDisk(t *testing.T) {
	root := smallDisk(t)
	n := Start(t, "--root", root)
	n.Pull(images.Busybox)
	pod, _, _ := n.Sleeper()
	p := n.PodConfig()
	second := n.RunPod(p)
	id := n.Run(second, p, "sleep", "3600")
	fill(t, filepath.Join(root, "ballast"))

	_, err := n.Images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: images.Nginx}})
	WantCode(t, err, codes.ResourceExhausted)
	if _, err := n.Runtime.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: id}); err != nil {
		t.Errorf("status: %v", err)
	}
	n.removePod(t, pod)
	fill(t, filepath.Join(root, "more-ballast")) // what that has freed
	n.RestartDaemon()
	if _, err := n.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: 1}, wait); err != nil {
		t.Errorf("stop the container: %v", err)
	}
	if _, err := n.Runtime.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Errorf("remove the container: %v", err)
	}
	n.removePod(t, second)
	list, err := n.Runtime.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
	if err != nil || len(list.GetItems()) > 0 {
		t.Errorf("still listed: %v, %v", list.GetItems(), err)
	}
	_, err = n.Images.RemoveImage(t.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: images.Busybox}})
	if err != nil {
		t.Errorf("remove the image: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(root, "layers", "*.erofs")); err != nil || len(left) > 0 {
		t.Errorf("layers are left: %v, %v", left, err)
	}
	if left, err := os.ReadDir(filepath.Join(root, "containers")); err != nil || len(left) > 0 {
		t.Errorf("writable layers are left: %v, %v", left, err)
	}
	// With room again all goes on, with nothing to be mended.
	if err := errors.Join(os.Remove(filepath.Join(root, "ballast")), os.Remove(filepath.Join(root, "more-ballast"))); err != nil {
		t.Fatal(err)
	}
	n.Pull(images.Busybox)
	_, id, _ = n.Sleeper()
	n.Exec(id, "true")
}

// smallDisk mounts an ext4 of 64 MB and returns its mount point.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(harness.Dir(), "disk-")
	if err != nil {
		t.Fatal(err)
	}
	image, root := filepath.Join(dir, "ext4"), filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 64<<20); err != nil {
		t.Fatal(err)
	}
	// No blocks for root alone: the daemon is root, and could use them.
	for _, c := range [][]string{{"mkfs.ext4", "-q", "-m", "0", image}, {"mount", "-o", "loop", image, root}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", c, err, out)
		}
	}
	t.Cleanup(func() {
		// The daemon has ended, and its layers' mounts end with the node.
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount the disk: %v", err)
		}
	})
	return root
}

// fill writes a file until there is no room for one byte more.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		_, err := f.Write(make([]byte, size))
		switch {
		case errors.Is(err, unix.ENOSPC):
			size /= 2
		case err != nil:
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}
