package main

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStateLetsPodsThrough: whoever made the state directory before the daemon, pods with
// user namespaces pass through it.
func TestStateLetsPodsThrough(t *testing.T) {
	for _, tt := range []struct{ before, after os.FileMode }{
		{0o700, 0o711}, {0o750, 0o751}, {0o711, 0o711}, {0o755, 0o755}, {0o701, 0o701},
	} {
		dir := t.TempDir()
		l, err := net.Listen("unix", filepath.Join(dir, "m")) // so that nothing is mounted
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := os.Chmod(dir, tt.before); err != nil {
			t.Fatal(err)
		}
		if err := ensureTmpfs(dir, l.Addr().String(), slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm() != tt.after {
			t.Errorf("%v became %v, %v, want %v", tt.before, info.Mode().Perm(), err, tt.after)
		}
	}
}

// TestSocketIsPrivate: nobody else may connect, whatever the umask.
func TestSocketIsPrivate(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "run", "cricket.sock")
	defer unix.Umask(unix.Umask(0))
	l, err := listen(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Stat(socket)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("the socket's mode is %v, %v", info.Mode(), err)
	}
}
