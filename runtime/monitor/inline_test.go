package monitor

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/oci"
)

// inline turns a request with a bundle into one that brings its specification.
func inline(t *testing.T, n *node, req CreateRequest) CreateRequest {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(req.Bundle, configFile))
	if err != nil {
		t.Fatal(err)
	}
	req.Spec = new(specs.Spec)
	if err := json.Unmarshal(b, req.Spec); err != nil {
		t.Fatal(err)
	}
	req.Bundle = filepath.Join(n.dir, "inline", req.ID)
	return req
}

func TestSpecificationInline(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		req := inline(t, n, n.bundle([]string{"exit", "4"}, nil))
		if _, err := n.client.Create(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		n.kill()
		n.start()
		if _, err := n.client.Start(t.Context(), req.ID); err != nil {
			t.Fatal(err)
		}
		if exit := n.wait(req.ID); exit.Code != 4 || exit.Unknown {
			t.Errorf("exit = %+v, want 4", exit)
		}
		if err := n.client.Delete(t.Context(), req.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(req.Bundle); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the bundle is left: %v", err)
		}
		req.Spec.Process.Args = []string{"/there-is-none"}
		if _, err := n.client.Create(t.Context(), req); err == nil {
			_, err = n.client.Start(t.Context(), req.ID)
			if err == nil {
				t.Error("a program that does not exist runs")
			}
			if err := n.client.Delete(t.Context(), req.ID); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(req.Bundle); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the bundle of a failure is left: %v", err)
		}
	})
}

// What is in the bundle besides stays, and so does a bundle that lay ready.
func TestBundleWithMoreInItStays(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"rootfs", "other/full"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r := CreateRequest{Bundle: dir, Rootfs: Overlay{Target: "rootfs"}, Overlays: []Overlay{{Target: "other"}, {Target: "../outside"}}}
	if err := removeBundle(r); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "other" {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// A clone's kernel has its template's boot id: a server that is told another one does
// not take over the template's records.
func TestBootIsGiven(t *testing.T) {
	state := t.TempDir()
	save := func(id, boot string) {
		r := record{Request: CreateRequest{ID: id, Bundle: state}, life: life{Boot: boot, Phase: runtime.Exited, Init: Created{Pid: 1 << 21}}}
		if err := (shelf{dir: state}).save(id, recordSuffix, r); err != nil {
			t.Fatal(err)
		}
	}
	own, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	save("old", own)
	save("new", "given")
	s, err := NewServer(Options{State: state, Boot: "given"})
	if err != nil {
		t.Fatal(err)
	}
	s.reaper.stop() // the other tests' children are not its own
	unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	if _, err := s.find("old"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("a record of another boot: %v", err)
	}
	if _, err := s.find("new"); err != nil {
		t.Errorf("a record of this boot: %v", err)
	}
	if s.boot != "given" {
		t.Errorf("boot = %q", s.boot)
	}
}
