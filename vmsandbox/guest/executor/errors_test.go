package executor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

func TestCreateRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*box)
		spec   func(*specs.Spec)
		want   string
		kind   error
	}{
		"program not in PATH":      {change: func(b *box) { b.config.Args = []string{"nothing"} }, want: `exec: "nothing": executable file not found in $PATH: no such file or directory`},
		"program not there":        {change: func(b *box) { b.config.Args = []string{"/bin/nothing"} }, want: `exec: "/bin/nothing": no such file or directory`},
		"program is a directory":   {change: func(b *box) { b.config.Args = []string{"/dir"} }, want: `exec: "/dir": is a directory`},
		"program cannot be run":    {change: func(b *box) { b.config.Args = []string{"/etc/passwd"} }, want: `exec: "/etc/passwd": permission denied`},
		"empty program":            {change: func(b *box) { b.config.Args = []string{""} }, want: `exec: "": executable file not found in $PATH`},
		"directory is a file":      {change: func(b *box) { b.config.Cwd = "/etc/passwd" }, want: "change to directory /etc/passwd: not a directory"},
		"source not there":         {change: func(b *box) { b.config.Mounts = []runtime.Mount{{Source: "/no/such", Destination: "/mnt"}} }, want: "mount /no/such on /mnt: clone mount: no such file or directory"},
		"directory on a file":      {change: func(b *box) { b.config.Mounts = []runtime.Mount{{Source: "/tmp", Destination: "/etc/passwd"}} }, want: "mount /tmp on /etc/passwd: attach mount: not a directory"},
		"namespace not there":      {change: func(b *box) { b.place.Namespaces[0].Path = "/no/such" }, want: "open network namespace /no/such: no such file or directory"},
		"unknown file system":      {spec: func(s *specs.Spec) { s.Mounts[0].Type = "nofs" }, want: "mount nofs on /proc: no such device"},
		"unknown option":           {spec: func(s *specs.Spec) { s.Mounts[1].Options = append(s.Mounts[1].Options, "nonsense=1") }, want: "mount tmpfs on /dev: option nonsense=1: invalid argument"},
		"unknown capability":       {spec: func(s *specs.Spec) { s.Process.Capabilities.Bounding = []string{"CAP_X"} }, want: `capability "CAP_X"`, kind: errdefs.ErrInvalidArgument},
		"unknown limit":            {spec: func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} }, want: `limit "RLIMIT_X"`, kind: errdefs.ErrInvalidArgument},
		"AppArmor":                 {spec: func(s *specs.Spec) { s.Process.ApparmorProfile = "x" }, want: "AppArmor", kind: errdefs.ErrNotImplemented},
		"seccomp without program":  {spec: func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow} }, want: "read seccomp program", kind: errdefs.ErrInvalidArgument},
		"hooks":                    {spec: func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/x"}}} }, want: "hooks", kind: errdefs.ErrNotImplemented},
		"a limit without its file": {spec: func(s *specs.Spec) { s.Linux.Resources.Unified = map[string]string{"nothing.max": "1"} }, want: "set nothing.max to 1"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			if c.change != nil {
				c.change(b)
			}
			b.change = c.spec
			err := b.create()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			kind := c.kind
			if kind == nil {
				kind = errdefs.ErrFailedPrecondition
			}
			if !errors.Is(err, kind) {
				t.Errorf("%v is not %v", err, kind)
			}
			if _, err := os.Stat(filepath.Join(node.cgroup, "pod", b.id)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("cgroup is left: %v", err)
			}
			list, err := node.client.List(t.Context())
			must(t, err)
			for _, e := range list {
				if e.ID == b.id {
					t.Error("the container is left")
				}
			}
		})
	}
}

func TestStartOfWhatIsNoProgram(t *testing.T) {
	b := newBox(t)
	must(t, os.WriteFile(filepath.Join(b.lower, "bad"), []byte("nonsense"), 0o755))
	b.config.Args = []string{"/bad"}
	must(t, b.create())
	_, err := node.client.Start(t.Context(), b.id)
	if !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "exec /bad: exec format error") {
		t.Errorf("start: %v", err)
	}
}

func TestExecRefuses(t *testing.T) {
	b := newBox(t, "sleep")
	b.start()
	for name, c := range map[string]struct {
		change func(*specs.Process)
		want   string
		kind   error
	}{
		"program not in PATH": {func(p *specs.Process) { p.Args = []string{"nothing"} }, `exec: "nothing": executable file not found in $PATH`, errdefs.ErrFailedPrecondition},
		"directory not there": {func(p *specs.Process) { p.Cwd = "/nothing" }, "change to directory /nothing: no such file", errdefs.ErrFailedPrecondition},
		"relative directory":  {func(p *specs.Process) { p.Cwd = "x" }, "not absolute", errdefs.ErrInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := b.exec(c.change); !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	b.sleeps()
	must(t, node.client.Signal(t.Context(), b.id, unix.SIGTERM))
	if exit, err := node.client.Wait(t.Context(), b.id); err != nil || exit.Code != 3 {
		t.Errorf("exit %+v, %v", exit, err)
	}
	if _, _, err := b.exec(nil); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("exec in what has exited: %v", err)
	}
}
