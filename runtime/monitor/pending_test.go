package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime/oci"
)

// A daemon that died while it had a container created deletes that when it is started
// again: the creation, which nobody can take back in its middle, ends first.
func TestDeleteWaitsForCreation(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		real, err := exec.LookPath(rt.Path)
		if err != nil {
			t.Fatal(err)
		}
		slow := filepath.Join(t.TempDir(), filepath.Base(real))
		script := fmt.Sprintf("#!/bin/sh\ncase \" $* \" in *' create '*) sleep 1;; esac\nexec %s \"$@\"\n", real)
		if err := os.WriteFile(slow, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		n := newNode(t, rt)
		rt.Path = slow
		req := n.bundle([]string{"sleep", "100"}, func(_ *specs.Spec, r *CreateRequest) { r.Runtime = rt })
		gone, die := context.WithCancel(t.Context())
		go func() { _, _ = n.client.Create(gone, req) }()
		time.Sleep(300 * time.Millisecond) // it is on its way
		die()
		if err := n.client.Delete(t.Context(), req.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := n.client.State(t.Context(), req.ID); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("after Delete: %v", err)
		}
		req.Runtime.Path = real
		if _, err := n.client.Create(t.Context(), req); err != nil {
			t.Errorf("create again: %v", err)
		}
	})
}

// A caller that gives up while its process is being started deletes it at once: the
// start must not come after that.
func TestDeleteAfterAbandonedSpawn(t *testing.T) {
	n := newNode(t, oci.Runtime{})
	for i := range 60 {
		r := SpawnRequest{ID: fmt.Sprintf("abandoned%d-%d", os.Getpid(), i), Args: []string{programs.payload, "sleep", "100"}}
		gone, die := context.WithCancel(t.Context())
		conn := make(chan struct{})
		client := NewClient(func(ctx context.Context) (net.Conn, error) {
			defer close(conn)
			return n.client.dial(ctx)
		})
		go func() {
			<-conn
			time.Sleep(time.Duration(i) * 20 * time.Microsecond)
			die()
		}()
		_, _ = client.Spawn(gone, r, nil)
		die()
		if err := n.client.Delete(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(200 * time.Millisecond) // for what comes too late
	if left, err := n.client.List(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("left behind: %+v, %v", left, err)
	}
}
