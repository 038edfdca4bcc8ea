package monitor

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime/oci"
)

func mounts(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestUserNamespaceOverlay(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
		pid, err := n.client.Hold(t.Context(), HoldRequest{ID: "pod", UIDMappings: maps, GIDMappings: maps,
			Namespaces: []specs.LinuxNamespaceType{specs.UserNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace}})
		if err != nil {
			t.Fatal(err)
		}
		defer n.client.Release(t.Context(), "pod")
		ns := "/proc/" + strconv.Itoa(pid) + "/ns/"
		var upper string
		req := n.run([]string{"write", "/new"}, func(s *specs.Spec, r *CreateRequest) {
			s.Linux.UIDMappings, s.Linux.GIDMappings = maps, maps
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.UserNamespace, Path: ns + "user"}, {Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
				{Type: specs.IPCNamespace, Path: ns + "ipc"}, {Type: specs.NetworkNamespace, Path: ns + "net"}, {Type: specs.UTSNamespace, Path: ns + "uts"}}
			r.Rootfs.UserNS = ns + "user"
			upper = r.Rootfs.Upper
			for _, d := range []string{r.Rootfs.Upper, r.Rootfs.Work} {
				os.Chown(d, 200000, 200000)
			}
			for dir := r.Bundle; dir != "/" && dir != "/tmp"; dir = filepath.Dir(dir) {
				os.Chmod(dir, 0o755)
			}
		})
		n.wait(req.ID)
		if got, want := n.text(req.LogPath, "stdout"), "/new 0 0 <nil>\n/payload 0 0 <nil>\n"; got != want {
			t.Errorf("inside = %q, want %q", got, want)
		}
		st, err := readOwner(upper + "/new")
		if err != nil || st != 200000 {
			t.Errorf("on disk the file belongs to %d, %v, want 200000", st, err)
		}
	})
}

func TestImageVolumesAndNoTraces(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		a, b := filepath.Join(n.dir, "a"), filepath.Join(n.dir, "b")
		for _, d := range []string{a + "/sub", b + "/sub"} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		os.WriteFile(a+"/sub/from-a", nil, 0o644)
		os.WriteFile(b+"/sub/from-b", nil, 0o644)
		os.Symlink("/sub", a+"/link") // resolved inside the image
		for _, c := range []struct {
			overlay Overlay
			want    string
		}{
			{Overlay{Target: "vol", Lower: []string{a}}, "link\nsub\n"},
			{Overlay{Target: "vol", Lower: []string{a, b}, SubPath: "link"}, "from-a\nfrom-b\n"},
			{Overlay{Target: "vol", Lower: []string{a}, SubPath: "sub"}, "from-a\n"},
		} {
			req := n.create([]string{"list", "/vol"}, func(s *specs.Spec, r *CreateRequest) {
				r.Overlays = []Overlay{c.overlay}
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/vol", Source: filepath.Join(r.Bundle, "vol"), Type: "bind", Options: []string{"rbind", "ro"}})
			})
			if strings.Contains(mounts(t), req.Bundle) {
				t.Error("the host sees mounts of the container")
			}
			if _, err := n.client.Start(t.Context(), req.ID); err != nil {
				t.Fatal(err)
			}
			n.wait(req.ID)
			got := n.text(req.LogPath, "stdout")
			if !strings.HasPrefix(got, c.want+"<nil> ") || !strings.Contains(got, "read-only") {
				t.Errorf("%+v: %q, want %q and no writing", c.overlay, got, c.want)
			}
		}
	})
}

func TestOneMonitorForManyStarters(t *testing.T) {
	dir, err := os.MkdirTemp("", "mon")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var all sync.WaitGroup
	pids := make([]int, 5)
	for i := range pids {
		all.Go(func() {
			info, err := Start(t.Context(), StartOptions{Binary: programs.monitor, Socket: dir + "/s", State: dir + "/state", LogFile: dir + "/log"})
			if err != nil {
				t.Error(err)
			}
			pids[i] = info.Pid
		})
	}
	all.Wait()
	for _, pid := range pids {
		if pid == 0 || pid != pids[0] {
			t.Fatalf("monitors = %v, want one", pids)
		}
	}
	p, err := os.FindProcess(pids[0])
	if err != nil {
		t.Fatal(err)
	}
	if st, err := readProc(pids[0]); err != nil || st.session != pids[0] {
		t.Errorf("session = %d, %v: not detached", st.session, err)
	}
	p.Kill()
}
