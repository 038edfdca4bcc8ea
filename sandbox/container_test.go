package sandbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox/netns"
)

func containerConfig(id string) runtime.Config {
	return runtime.Config{ID: id, Image: image, Args: []string{"/bin/true"}, Cwd: "/", PID: runtime.NamespaceContainer}
}

func TestNewContainerWritesABundle(t *testing.T) {
	h := newHost(t)
	c := h.config(podID)
	c.UserNS = mappings()
	s := create(t, h, c)
	source := filepath.Join(t.TempDir(), "missing", "dir")
	config := containerConfig("c01")
	config.Mounts = []runtime.Mount{
		{Destination: "/data", Source: source},
		{Destination: "/image", Image: image, SubPath: "sub"},
	}
	live, err := s.NewContainer(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(source); err != nil || !info.IsDir() {
		t.Errorf("missing source was not made: %v", err)
	}
	request := h.monitor.created["c01"]
	if request.Rootfs.UserNS == "" || request.Rootfs.Upper == "" || len(request.Overlays) != 1 ||
		request.Overlays[0].SubPath != "sub" || request.Cgroup != c.CgroupParent+"/c01" || request.KillAll {
		t.Errorf("request: %+v", request)
	}
	content, err := os.ReadFile(filepath.Join(request.Bundle, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var oci specs.Spec
	if err := json.Unmarshal(content, &oci); err != nil {
		t.Fatal(err)
	}
	for _, n := range oci.Linux.Namespaces {
		switch n.Type {
		case specs.UserNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace:
			if !netns.IsNamespace(n.Path) {
				t.Errorf("%s namespace at %q is not pinned", n.Type, n.Path)
			}
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(request.Rootfs.Upper, &st); err != nil || st.Uid != 200000 {
		t.Errorf("upper belongs to %d, %v", st.Uid, err)
	}
	if _, err := s.NewContainer(context.Background(), config); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second container of one name: %v", err)
	}
	usage := live.(interface {
		DiskUsage(context.Context) (runtime.DiskUsage, error)
	})
	if err := os.WriteFile(filepath.Join(request.Rootfs.Upper, "file"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := usage.DiskUsage(context.Background()); err != nil || got.Bytes < 1<<20 || got.Inodes != 2 {
		t.Errorf("usage: %+v %v", got, err)
	}
	for range 2 {
		if err := live.Remove(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Container(context.Background(), "c01"); !errdefs.IsNotFound(err) {
		t.Errorf("removed container: %v", err)
	}
}

func TestNewContainerThatFailsLeavesNothing(t *testing.T) {
	h := newHost(t)
	s := create(t, h, h.config(podID))
	h.monitor.fail = errBroken
	if _, err := s.NewContainer(context.Background(), containerConfig("c01")); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
	shared := containerConfig("c02")
	shared.Mounts = []runtime.Mount{{Destination: "/x", Source: t.TempDir(), Propagation: runtime.PropagationBidirectional}}
	private := filepath.Join(t.TempDir(), "private")
	if err := os.Mkdir(private, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(private, private, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(private, unix.MNT_DETACH) }()
	if err := unix.Mount("", private, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	shared.Mounts[0].Source = private
	if _, err := s.NewContainer(context.Background(), shared); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "not a shared mount") {
		t.Errorf("got %v", err)
	}
	names, _ := os.ReadDir(filepath.Join(h.options.State, "sandboxes", podID, "containers"))
	if len(names) > 0 {
		t.Errorf("names are still claimed: %v", names)
	}
}

func TestRemoveTakesImmutableFiles(t *testing.T) {
	h := newHost(t)
	s := create(t, h, h.config(podID))
	live, err := s.NewContainer(context.Background(), containerConfig("c01"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(h.monitor.created["c01"].Rootfs.Upper, "fixed")
	if err := os.WriteFile(file, nil, 0o000); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chattr", "+i", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := live.Remove(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestContainerThatAKillLeftHalfMade(t *testing.T) {
	h := newHost(t)
	s := create(t, h, h.config(podID))
	state := filepath.Join(h.options.State, "sandboxes", podID, "containers")
	// Killed after the name was claimed, and after a reboot that left the layer alone.
	if err := os.WriteFile(filepath.Join(state, "c01"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.NewContainer(context.Background(), containerConfig("c02")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(state, "c02")); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"c01", "c02"} {
		live, err := s.Container(context.Background(), id)
		if err != nil {
			t.Fatal(err)
		}
		if err := live.Remove(context.Background()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Container(context.Background(), id); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func TestLayersThatWereCutShort(t *testing.T) {
	h := newHost(t)
	layers := filepath.Join(h.options.Root, "containers")
	for _, dir := range []string{".new-c01", "c02"} {
		if err := os.Mkdir(filepath.Join(layers, dir), 0o711); err != nil {
			t.Fatal(err)
		}
	}
	h.restart(t)
	if ids, err := h.List(context.Background()); err != nil || len(ids) > 0 {
		t.Errorf("list: %v %v", ids, err)
	}
	if names, err := os.ReadDir(layers); err != nil || len(names) > 0 {
		t.Errorf("still there: %v %v", names, err)
	}
}
