package main

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// An export writes to no file that was there, and leaves one file with the mode that the
// umask leaves.
func TestExportFollowsNoLink(t *testing.T) {
	defer unix.Umask(unix.Umask(0o027))
	p := newPlace(t)
	if _, err := p.cricket(t, "image import", dockerFile(t, "example.com/app:v1")); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, precious := filepath.Join(dir, "out.tar"), filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(precious, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(precious, file+".part"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.cricket(t, "image export", "--output", file, "example.com/app:v1"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(precious); err != nil || string(text) != "precious" {
		t.Errorf("the file behind the link has %d bytes now, %v", len(text), err)
	}
	info, err := os.Lstat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o640 {
		t.Errorf("mode = %v", info.Mode())
	}
	if left, _ := os.ReadDir(dir); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
	if _, err := p.cricket(t, "image export", "--output", filepath.Join(dir, "absent", "out.tar"), "example.com/app:v1"); err == nil {
		t.Error("export to a directory that is not there: no error")
	}
}
