package oci

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

func TestArgs(t *testing.T) {
	r := Runtime{Name: "crun", Path: "/usr/bin/crun", Root: "/run/r", SystemdCgroup: true}
	for _, c := range []struct{ got, want []string }{
		{r.Create("/l", "/b", "/p", "", "id"), []string{"/usr/bin/crun", "--root", "/run/r", "--systemd-cgroup", "--log", "/l", "--log-format", "json",
			"create", "--bundle", "/b", "--pid-file", "/p", "id"}},
		{Runtime{Path: "/x"}.Delete("", "id"), []string{"/x", "delete", "--force", "id"}},
		{Runtime{Path: "/x"}.Exec("", "/j", "/p", "/c", "id"), []string{"/x", "exec", "--detach", "--process", "/j", "--pid-file", "/p", "--console-socket", "/c", "id"}},
		{Runtime{Path: "/x"}.Checkpoint("", "/i", "/w", "id"), []string{"/x", "checkpoint", "--leave-running", "--file-locks", "--image-path", "/i", "--work-path", "/w", "id"}},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("args = %q, want %q", c.got, c.want)
		}
	}
}

func TestMessage(t *testing.T) {
	for _, c := range []struct{ name, log, want string }{
		{"nothing", "", ""},
		{"the last error", `{"level":"error","msg":"first"}` + "\n" + `{"level":"error","msg":"second"}` + "\n" + `{"level":"info","msg":"bye"}`, "second"},
		{"no error", `{"level":"warning","msg":"odd"}` + "\n", "odd"},
		{"no JSON", "broken\n", "broken"},
	} {
		if got := Message([]byte(c.log)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestFindAndFeatures(t *testing.T) {
	r, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.Features(t.Context())
	if err != nil || f.Version == "" || !f.Seccomp || !f.UserNamespaces {
		t.Errorf("features of %s = %+v, %v", r.Path, f, err)
	}
	if _, err := Find("no-such-runtime"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("find nothing: %v", err)
	}
	own := filepath.Join(t.TempDir(), "runc")
	if err := os.WriteFile(own, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if r, err = Find(own); err != nil || r.Path != own || r.Name != "runc" {
		t.Errorf("find a path: %+v, %v", r, err)
	}
	if _, err := r.Features(t.Context()); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("features of a broken program: %v", err)
	}
}

func TestFeaturesByVersion(t *testing.T) {
	f := fromVersion("crun version 1.8.1\nspec: 1.0.0\n+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF +YAJL\n")
	if f.Version != "crun version 1.8.1" || !f.RecursiveReadOnly || !f.IDMappedMounts || !f.Seccomp || !f.AppArmor || f.Told {
		t.Errorf("features = %+v", f)
	}
	if f = fromVersion("crun version 0.17\n"); f.RecursiveReadOnly || f.IDMappedMounts || f.Seccomp {
		t.Errorf("features of an old one = %+v", f)
	}
}

// TestCheckpointFeature: runc and newer crun tell by annotation, older crun by what it was
// built with.
func TestCheckpointFeature(t *testing.T) {
	if f := fromVersion("crun version 1.8.1\n+SYSTEMD +CRIU +YAJL\n"); !f.Checkpoint {
		t.Errorf("built with CRIU: %+v", f)
	}
	if f := fromVersion("crun version 1.8.1\n+SYSTEMD +YAJL\n"); f.Checkpoint {
		t.Errorf("built without CRIU: %+v", f)
	}
	for name, want := range map[string]bool{"org.opencontainers.runc.checkpoint.enabled": true, "run.oci.crun.checkpoint.enabled": true, "other": false} {
		if f := fromTold("", features.Features{Annotations: map[string]string{name: "true"}}); f.Checkpoint != want {
			t.Errorf("%s: %v", name, f.Checkpoint)
		}
	}
	if f := fromTold("", features.Features{Annotations: map[string]string{"run.oci.crun.checkpoint.enabled": "false"}}); f.Checkpoint {
		t.Error("switched off by annotation")
	}
}
