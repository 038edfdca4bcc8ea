package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func script(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path+".new", []byte("#!/bin/sh\n"+text), 0o755), os.Rename(path+".new", path))
}

// TestCheck: a good answer is kept until the program changes, a bad one is not.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	path, count := filepath.Join(dir, "criu"), filepath.Join(dir, "count")
	c := &CRIU{Path: path}
	if _, err := c.Check(t.Context()); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("without a program: %v", err)
	}
	asked := func() int {
		b, _ := os.ReadFile(count)
		return len(b)
	}
	script(t, path, fmt.Sprintf("printf x >> %s; echo Warn; echo 'Error (a.c:1): bad luck' >&2; exit 1\n", count))
	for range 2 {
		if _, err := c.Check(t.Context()); !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "Error (a.c:1): bad luck") || strings.Contains(err.Error(), "Warn") {
			t.Errorf("a bad answer: %v", err)
		}
	}
	if asked() != 2 {
		t.Errorf("asked %d times, want 2: a bad answer is kept", asked())
	}
	script(t, path, fmt.Sprintf("[ \"$1\" = check ] || exit 1; printf x >> %s\n", count))
	for range 2 {
		if got, err := c.Check(t.Context()); err != nil || got != path {
			t.Errorf("a good answer: %q, %v", got, err)
		}
	}
	if asked() != 3 {
		t.Errorf("asked %d times, want 3: a good answer is not kept", asked())
	}
	script(t, path, "exit 3\n")
	if _, err := c.Check(t.Context()); !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "it says nothing") {
		t.Errorf("another program: %v", err)
	}
}

func TestComplaint(t *testing.T) {
	dir := t.TempDir()
	if got := Complaint(dir); got != "" {
		t.Errorf("without a log: %q", got)
	}
	must(t, os.WriteFile(filepath.Join(dir, dumpLog), []byte("(00.1) fine\n(00.2) Error (a.c:1): no\nfine\n"), 0o600))
	if got, want := Complaint(dir), "Error (a.c:1): no"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	must(t, os.WriteFile(filepath.Join(dir, dumpLog), []byte(strings.Repeat("Error (a.c:1): no\n", 1000)), 0o600))
	if got := Complaint(dir); len(got) > 2*maxVerdict {
		t.Errorf("%d bytes", len(got))
	}
}
