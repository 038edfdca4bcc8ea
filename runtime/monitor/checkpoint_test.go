package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime/oci"
)

// dumpingNode is a node whose OCI runtime runs script in place of its checkpoint, in the
// environment of that, and a container that writes lines.
func dumpingNode(t *testing.T, script string) (*node, CreateRequest, CheckpointRequest) {
	t.Helper()
	rt, err := oci.Find()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, rt.Name)
	text := fmt.Sprintf("#!/bin/sh\nfor a; do [ \"$a\" = checkpoint ] || continue; cd %s; %s\nexit; done\nexec %s \"$@\"\n", dir, script, rt.Path)
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	rt.Path = path
	n := newNode(t, rt)
	req := n.run([]string{"flood", "4", "600000"}, nil)
	return n, req, CheckpointRequest{Images: dir, Work: dir, Programs: dir, Timeout: time.Minute}
}

// grows tells whether the container writes, which it does eight times a second.
func (n *node) grows(req CreateRequest) bool {
	n.t.Helper()
	size := func() int64 {
		info, err := os.Stat(req.LogPath)
		if err != nil {
			n.t.Fatal(err)
		}
		return info.Size()
	}
	time.Sleep(200 * time.Millisecond) // what was written before is logged
	before := size()
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if size() > before {
			return true
		}
	}
	return false
}

// TestCheckpointStandsStill: the container is still from before the dump until the caller
// has done its part, the runtime finds its way to CRIU and knows of the FIFOs.
func TestCheckpointStandsStill(t *testing.T) {
	n, req, r := dumpingNode(t, "echo \"$PATH\" > path; cp $CRIU_CONFIG_FILE conf; echo \"$@\" > args")
	called := 0
	err := n.client.Checkpoint(t.Context(), req.ID, r, func(context.Context) error {
		called++
		if n.grows(req) {
			t.Error("the container writes while its files are copied")
		}
		// There is one at a time.
		if err := n.client.Checkpoint(t.Context(), req.ID, r, nil); !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("two at once: %v", err)
		}
		return nil
	})
	if err != nil || called != 1 {
		t.Fatalf("checkpoint: %v, called %d times", err, called)
	}
	if !n.grows(req) {
		t.Error("the container does not go on")
	}
	for name, want := range map[string]string{
		"path": "^" + r.Programs + ":", "args": " --image-path " + r.Images + " --work-path " + r.Work + " " + req.ID + "\n$",
		"conf": "(?s)^external file.[0-9a-f]+:[0-9a-f]+.\nexternal file.[0-9a-f]+:[0-9a-f]+.\n$",
	} {
		got, err := os.ReadFile(filepath.Join(r.Work, name))
		if err != nil || !regexp.MustCompile(want).Match(got) {
			t.Errorf("%s: %q, %v, want %s", name, got, err, want)
		}
	}
	if err := n.client.Checkpoint(t.Context(), req.ID, CheckpointRequest{}, nil); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("an empty request: %v", err)
	}
	if err := n.client.Checkpoint(t.Context(), "none", r, nil); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("no container: %v", err)
	}
}

// TestCheckpointGoesOn: the container goes on when the dump fails, takes too long, the
// caller fails, stays away or leaves.
func TestCheckpointGoesOn(t *testing.T) {
	mine := errors.New("mine")
	for name, c := range map[string]struct {
		script string
		while  func(context.Context) error
		want   error
	}{
		"dump fails":   {"exit 1", nil, errdefs.ErrInternal},
		"dump hangs":   {"sleep 600", nil, context.DeadlineExceeded},
		"caller fails": {"true", func(context.Context) error { return mine }, mine},
		"caller hangs": {"true", func(ctx context.Context) error { <-ctx.Done(); return nil }, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			n, req, r := dumpingNode(t, c.script)
			r.Timeout = 2 * time.Second
			began := time.Now()
			if err := n.client.Checkpoint(t.Context(), req.ID, r, c.while); !errors.Is(err, c.want) {
				t.Errorf("checkpoint: %v, want %v", err, c.want)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
			if !n.grows(req) {
				t.Error("the container does not go on")
			}
		})
	}
	n, req, r := dumpingNode(t, "sleep 600")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := n.client.Checkpoint(ctx, req.ID, r, nil); err == nil {
		t.Error("a checkpoint whose caller has left succeeds")
	}
	n.eventually("the container goes on when the caller has left", func() bool { return n.grows(req) })
}

// TestCheckpointOutlivesNoMonitor: the next monitor thaws what one that was killed froze.
func TestCheckpointOutlivesNoMonitor(t *testing.T) {
	n, req, r := dumpingNode(t, "true")
	err := n.client.Checkpoint(t.Context(), req.ID, r, func(context.Context) error {
		n.kill()
		if n.grows(req) {
			t.Error("the container writes without a monitor")
		}
		return nil
	})
	if !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("checkpoint: %v", err)
	}
	n.start()
	n.eventually("the container goes on under the next monitor", func() bool { return n.grows(req) })
}

// TestCheckpointEndsWithItsMonitor: a dump that was under way when the monitor was killed
// is ended by the next one.
func TestCheckpointEndsWithItsMonitor(t *testing.T) {
	n, req, r := dumpingNode(t, "echo $$ > pid; sleep 600")
	done := make(chan error, 1)
	go func() { done <- n.client.Checkpoint(t.Context(), req.ID, r, nil) }()
	pid := 0
	n.eventually("the dump is under way", func() bool {
		b, err := os.ReadFile(filepath.Join(r.Work, "pid"))
		if err != nil {
			return false
		}
		_, err = fmt.Sscan(string(b), &pid)
		return err == nil
	})
	n.kill()
	if err := <-done; !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("checkpoint: %v", err)
	}
	n.start()
	n.eventually("the dump has ended", func() bool { st, err := readProc(pid); return err != nil || st.dead() })
	n.eventually("the container goes on", func() bool { return n.grows(req) })
}
