package conformance

import (
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
)

// refusals are requests that some hulls refuse. Those that a hull does not list must
// work.
var refusals = map[string]func(*testing.T, *Hull) error{
	"host network": func(t *testing.T, h *Hull) error {
		return h.tryPod(t, func(c *sandbox.Config) { c.Network = runtime.NamespaceNode })
	},
	"host PID": func(t *testing.T, h *Hull) error {
		return h.tryPod(t, func(c *sandbox.Config) { c.PID = runtime.NamespaceNode })
	},
	"host IPC": func(t *testing.T, h *Hull) error {
		return h.tryPod(t, func(c *sandbox.Config) { c.IPC = runtime.NamespaceNode })
	},
	"bidirectional propagation": func(t *testing.T, h *Hull) error {
		dir := h.logs(t)
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
		if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
			t.Fatal(err)
		}
		return h.tryContainer(t, runtime.Mount{Destination: "/m", Source: dir, Propagation: runtime.PropagationBidirectional})
	},
	// Only of directories that are shared with the host while the pod runs.
	"mapped volume": func(t *testing.T, h *Hull) error {
		m := mappings()
		s := h.pod(t, func(c *sandbox.Config) { c.UserNS = m })
		c := h.shell(t, "one", "true")
		c.Mounts = []runtime.Mount{{Destination: "/m", Source: h.logs(t), UIDMappings: m.UIDs, GIDMappings: m.GIDs}}
		return tryIn(t, s, c)
	},
	"host socket": func(t *testing.T, h *Hull) error {
		return h.tryContainer(t, runtime.Mount{Destination: "/m", Source: h.Node.Paths.Dir + "/socket"})
	},
}

func (h *Hull) tryPod(t *testing.T, change func(*sandbox.Config)) error {
	t.Helper()
	c := podConfig(t)
	change(&c)
	s, err := h.Driver.Create(limited(t), c)
	if err == nil {
		err = s.Remove(limited(t))
	}
	return err
}

func (h *Hull) tryContainer(t *testing.T, m runtime.Mount) error {
	t.Helper()
	s := h.pod(t)
	c := h.shell(t, "one", "true")
	c.Mounts = []runtime.Mount{m}
	c.Privileged = true
	return tryIn(t, s, c)
}

func tryIn(t *testing.T, s sandbox.Sandbox, c runtime.Config) error {
	t.Helper()
	live, err := s.NewContainer(limited(t), c)
	if err == nil {
		err = live.Remove(limited(t))
	}
	return err
}

func testRefusals(t *testing.T, h *Hull) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	_ = os.Remove(h.Node.Paths.Dir + "/socket")
	_ = os.Chdir(h.Node.Paths.Dir) // names of sockets are short
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "socket"}); err != nil {
		t.Fatal(err)
	}
	for name, try := range refusals {
		t.Run(name, func(t *testing.T) {
			err := try(t, h)
			if !h.Refused[name] {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) {
				t.Errorf("got %v", err)
			} else if !strings.Contains(err.Error(), "docs/limitations.md") {
				t.Errorf("the refusal does not say where to read on: %v", err)
			}
		})
	}
}
