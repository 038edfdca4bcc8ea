package monitor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/oci"
)

func mountID(path string) (uint64, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st)
	return st.Mnt_id, err
}

// TestCrunExecutesItselfOnce looks at an init that crun has not let go: its program lies on
// the monitor's mount, and not on one that crun has made because that was not good enough.
func TestCrunExecutesItselfOnce(t *testing.T) {
	rt, err := oci.Find("crun")
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, rt)
	req := n.bundle([]string{"sleep", "3600000"}, nil)
	created, err := n.client.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	on, err := mountID(fmt.Sprintf("/proc/%d/exe", created.Pid))
	if err != nil {
		t.Fatal(err)
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", n.process.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if id, err := mountID(fd); err == nil && id == on { // else it has just been closed
			return
		}
	}
	t.Errorf("init executes crun from mount %d, which is none of the monitor's", on)
}

// TestBinaries executes programs that a container must not write to, others that may stay
// where they are, and those that come in their place.
func TestBinaries(t *testing.T) {
	var b binaries
	dir := t.TempDir()
	rt := oci.Runtime{Name: "crun", Path: filepath.Join(dir, "crun")}
	run := func(rt oci.Runtime, args ...string) (text, name string, err error) {
		err = b.execute(rt, func(file string) error {
			name = file
			out, err := (&exec.Cmd{Path: file, Args: append([]string{rt.Path}, args...), Env: []string{}}).CombinedOutput()
			text = string(out)
			return err
		})
		return text, name, err
	}
	place := func(from string) {
		t.Helper()
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(rt.Path+".new", data, 0o755)
		}
		if err == nil {
			err = os.Rename(rt.Path+".new", rt.Path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, name, err := run(rt); !errors.Is(err, os.ErrNotExist) || name != rt.Path {
		t.Errorf("a program that is not there: %v as %s", err, name)
	}
	place(programs.payload)
	for range 2 {
		text, name, err := run(rt, "self")
		if err != nil || text != "read-only" || name == rt.Path {
			t.Errorf("%s: %q, %v; want read-only", name, text, err)
		}
	}
	if text, name, err := run(oci.Runtime{Name: "runc", Path: rt.Path}, "self"); err != nil || text != "writable" || name != rt.Path {
		t.Errorf("another runtime, as %s: %q, %v", name, text, err)
	}
	place("/bin/echo")
	if text, _, err := run(rt, "upgraded"); err != nil || text != "upgraded\n" {
		t.Errorf("after an upgrade: %q, %v", text, err)
	}
	if err := os.WriteFile(rt.Path+".sh", []byte("#!/bin/sh\necho \"a script $1\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	place(rt.Path + ".sh")
	if text, name, err := run(rt, "too"); err != nil || text != "a script too\n" || name != rt.Path {
		t.Errorf("%s: %q, %v", name, text, err)
	}
	if len(b.open) != 0 {
		t.Errorf("%d mounts are held of programs that are gone", len(b.open))
	}
}
