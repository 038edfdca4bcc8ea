package cdi

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestRequested(t *testing.T) {
	got, err := Requested([]string{"v.example/net=b", "v.example/net=a", "v.example/net=b"}, map[string]string{
		"cdi.k8s.io/z": "v.example/net=c,v.example/net=a", "cdi.k8s.io/a": "v.example/net=d", "other": "x",
	})
	want := []string{"v.example/net=b", "v.example/net=a", "v.example/net=d", "v.example/net=c"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for field, ask := range map[string]func() ([]string, error){
		"config.CDI_devices[1].name": func() ([]string, error) { return Requested([]string{"v.example/net=a", "/dev/x"}, nil) },
		`config.annotations["cdi.k8s.io/z"]`: func() ([]string, error) {
			return Requested(nil, map[string]string{"cdi.k8s.io/z": "v.example/net=a,"})
		},
	} {
		if _, err := ask(); !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func device(env string) string {
	return `{"cdiVersion": "0.7.0", "kind": "v.example/net", "devices": [{"name": "a", "containerEdits": {
		"env": ["` + env + `"], "additionalGids": [44],
		"deviceNodes": [{"path": "/dev/a", "hostPath": "/dev/zero", "permissions": "r"}],
		"mounts": [{"hostPath": "/etc", "containerPath": "/vendor", "options": ["ro", "rbind"]}],
		"hooks": [{"hookName": "createRuntime", "path": "/bin/true"}]}}]}`
}

func process() *specs.Spec { return &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}} }

func TestInject(t *testing.T) {
	low, high := t.TempDir(), t.TempDir()
	r, err := Open([]string{low, high, filepath.Join(low, "missing")})
	if err != nil {
		t.Fatal(err)
	}
	// Written after Open, as device plugins do.
	write(t, low, "v.json", device("WHICH=low"))
	s := process()
	if err := r.Inject(s, []string{"v.example/net=a"}); err != nil {
		t.Fatal(err)
	}
	d := s.Linux.Devices[0]
	if d.Path != "/dev/a" || d.Type != "c" || d.Major != 1 || d.Minor != 5 {
		t.Errorf("device %+v", d)
	}
	if rule := s.Linux.Resources.Devices[0]; !rule.Allow || *rule.Minor != 5 || rule.Access != "r" {
		t.Errorf("rule %+v", rule)
	}
	if s.Process.Env[0] != "WHICH=low" || s.Mounts[0].Destination != "/vendor" || s.Hooks.CreateRuntime[0].Path != "/bin/true" ||
		!slices.Equal(s.Process.User.AdditionalGids, []uint32{44}) {
		t.Errorf("specification %+v", s)
	}
	write(t, high, "v.json", device("WHICH=high"))
	s = process()
	if err := r.Inject(s, []string{"v.example/net=a"}); err != nil || s.Process.Env[0] != "WHICH=high" {
		t.Errorf("the later directory does not win: %v %v", s.Process.Env, err)
	}
}

func TestInjectRefuses(t *testing.T) {
	dir := t.TempDir()
	r, err := Open([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "broken.json", `{"cdiVersion": "0.7.0", "kind"`)
	write(t, dir, "gone.json", `{"cdiVersion": "0.7.0", "kind": "v.example/gone", "devices": [{"name": "a", "containerEdits": {"deviceNodes": [{"path": "/dev/nosuch"}]}}]}`)
	err = r.Inject(process(), []string{"v.example/net=a"})
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "v.example/net=a") || !strings.Contains(err.Error(), "broken.json") {
		t.Errorf("unknown device: %v", err)
	}
	err = r.Inject(process(), []string{"v.example/gone=a"})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "v.example/gone=a") || !strings.Contains(err.Error(), "/dev/nosuch") {
		t.Errorf("device without a node: %v", err)
	}
	var off *Registry
	if err := off.Inject(nil, []string{"v.example/net=a"}); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "v.example/net=a") {
		t.Errorf("switched off: %v", err)
	}
	if err := off.Inject(nil, nil); err != nil {
		t.Errorf("switched off and not needed: %v", err)
	}
}

// TestInjectUserNamespace: mounts have the ids of the container's user namespace.
func TestInjectUserNamespace(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "v.json", device("A=1"))
	r, err := Open([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	s := process()
	s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.UserNamespace, Path: "/x"}}
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 5, Size: 6}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: 7, Size: 8}}
	if err := r.Inject(s, []string{"v.example/net=a"}); err != nil {
		t.Fatal(err)
	}
	m := s.Mounts[0]
	if len(m.UIDMappings) != 1 || m.UIDMappings[0].HostID != 5 || m.GIDMappings[0].HostID != 7 || slices.Contains(m.Options, "ridmap") {
		t.Errorf("%+v", m)
	}
}

func TestInjectAtOnce(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "v.json", device("A=1"))
	r, err := Open([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s := process()
			if err := r.Inject(s, []string{"v.example/net=a"}); err != nil || len(s.Linux.Devices) != 1 {
				t.Errorf("%v %v", s.Linux.Devices, err)
			}
		})
	}
	wg.Wait()
}
