package cgroup

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// makeEnv has this test binary make and prune the named cgroup until it is killed.
const makeEnv = "CRICKET_TEST_MAKE_CGROUP"

// Whenever the daemon is killed while it makes cgroups, the next one can prune them.
func TestMakeIsKilled(t *testing.T) {
	tree, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	if path := os.Getenv(makeEnv); path != "" {
		for {
			if err := tree.Make(path); err != nil {
				t.Fatal(err)
			}
			tree.Prune(path)
		}
	}
	parent := fmt.Sprintf("/cricket-test-%d", os.Getpid())
	path := parent + "/pod"
	t.Cleanup(func() { _ = tree.Remove(parent) })
	for i := range 100 {
		maker := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run", "^TestMakeIsKilled$")
		maker.Env = append(os.Environ(), makeEnv+"="+path)
		var out bytes.Buffer
		maker.Stdout, maker.Stderr = &out, &out
		if err := maker.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); !tree.Exists(parent); {
			if time.Now().After(deadline) {
				t.Fatalf("it makes nothing: %s", out.String())
			}
		}
		time.Sleep(rand.N(2 * time.Millisecond))
		_ = maker.Process.Kill()
		_ = maker.Wait()
		if out.Len() > 0 {
			t.Fatalf("it ended by itself: %s", out.String())
		}
		if tree.Prune(path); tree.Exists(parent) {
			t.Fatalf("kill %d: %s is left", i, parent)
		}
	}
}

// Pods are made while the last of their neighbours go, and their parent with them.
func TestMakeWhileNeighboursGo(t *testing.T) {
	tree, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	parent := fmt.Sprintf("/cricket-test-%d", os.Getpid())
	t.Cleanup(func() { _ = tree.Remove(parent) })
	var neighbours sync.WaitGroup
	for n := range 4 {
		neighbours.Go(func() {
			path := fmt.Sprintf("%s/pod%d", parent, n)
			for i := range 1000 {
				if err := tree.Make(path); err != nil {
					t.Errorf("pod %d, time %d: %v", n, i, err)
					return
				}
				tree.Prune(path)
			}
		})
	}
	neighbours.Wait()
	if tree.Exists(parent) {
		t.Errorf("%s is left", parent)
	}
}

// A cpuset without processors holds no process; one that another has just made, or that a
// killed daemon left, gets them before a pod goes below it.
func TestMakeCompletesACpuset(t *testing.T) {
	tree, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	root := tree.mounts["cpuset"]
	if root == "" { // v2: an empty cpuset.cpus inherits
		return
	}
	parent := fmt.Sprintf("/cricket-test-%d", os.Getpid())
	t.Cleanup(func() { _ = tree.Remove(parent) })
	if err := os.Mkdir(filepath.Join(root, parent), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := tree.Make(parent + "/pod"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		if got, err := os.ReadFile(filepath.Join(root, parent, "pod", name)); err != nil || len(bytes.TrimSpace(got)) == 0 {
			t.Errorf("%s is %q, %v", name, got, err)
		}
	}
}
