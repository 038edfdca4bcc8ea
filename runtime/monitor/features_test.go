package monitor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime/oci"
)

// TestRuntimesKeepTheirFeatures tries what oci.Features claims of the mounts.
func TestRuntimesKeepTheirFeatures(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		f, err := rt.Features(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n := newNode(t, rt)
		try := func(what string, claimed bool, change func(*specs.Mount)) {
			dir := filepath.Join(n.dir, "vol")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			req := n.bundle([]string{"write", "/vol/" + what}, func(s *specs.Spec, _ *CreateRequest) {
				m := specs.Mount{Destination: "/vol", Source: dir, Type: "bind", Options: []string{"rbind"}}
				change(&m)
				s.Mounts = append(s.Mounts, m)
			})
			_, err := n.client.Create(t.Context(), req)
			if err != nil {
				if claimed {
					t.Errorf("%s: %v", what, err)
				}
				return
			}
			n.client.Start(t.Context(), req.ID)
			n.wait(req.ID)
			got := n.text(req.LogPath, "stdout")
			works := strings.Contains(got, "read-only")
			if what == "idmap" {
				uid, err := readOwner(filepath.Join(dir, what))
				works = err == nil && uid == 1000
			}
			if works != claimed {
				t.Errorf("%s: claimed %v, works %v: %q", what, claimed, works, got)
			}
		}
		try("rro", f.RecursiveReadOnly, func(m *specs.Mount) { m.Options = append(m.Options, "rro") })
		try("idmap", f.IDMappedMounts, func(m *specs.Mount) {
			if err := os.Chown(m.Source, 1000, 1000); err != nil { // else its owner has no id in the mount
				t.Error(err)
			}
			m.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 1000, HostID: 0, Size: 1}}
			m.GIDMappings = m.UIDMappings
		})
	})
}
