package monitor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
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

// TestBinaryBesideDescriptors gives a program a descriptor whose number comes before that of
// its mount. Before the child executes anything it moves another to the number after it.
func TestBinaryBesideDescriptors(t *testing.T) {
	var low []*os.File // for the pipe by which the child says why it cannot execute anything
	for range 4 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		low = append(low, f)
	}
	var b binaries
	rt := oci.Runtime{Name: "crun", Path: "/bin/true"}
	if err := b.execute(rt, func(string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	before := uintptr(b.open[rt.Path].mount - 1)
	if _, err := unix.FcntlInt(before, unix.F_GETFD, 0); err != nil {
		t.Fatalf("descriptor %d, which one of this test's may have, is free: %v", before, err)
	}
	for _, f := range low[:3] {
		f.Close()
	}
	err := b.execute(rt, func(name string) error {
		pid, err := syscall.ForkExec(name, []string{"true"}, &syscall.ProcAttr{Files: []uintptr{before, before, before}})
		if err != nil {
			return err
		}
		_, err = syscall.Wait4(pid, nil, 0, nil)
		return err
	})
	if err != nil {
		t.Errorf("with descriptor %d: %v", before, err)
	}
	low[3].Close()
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
