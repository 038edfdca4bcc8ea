package main

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
)

// buildPayload makes the second disk: the programs to test, their tools, the test
// images and the scripts that run in the node.
func (l *lab) buildPayload(ctx context.Context) error {
	root := filepath.Join(l.cache, "payload")
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	parts := map[string]string{
		l.bin: "bin", filepath.Join(l.bundle, "tools"): "tools", filepath.Join(l.bundle, "images"): "images", "hack/systemd": "systemd",
	}
	for from, to := range parts {
		if err := command(ctx, "cp", "-rL", from, filepath.Join(root, to)); err != nil {
			return err
		}
	}
	if err := copyGuest(root); err != nil {
		return err
	}
	l.payload = filepath.Join(l.cache, "payload.img")
	if err := os.RemoveAll(l.payload); err != nil {
		return err
	}
	return command(ctx, "mke2fs", "-q", "-t", "ext4", "-d", root, l.payload, "2G")
}

// copyGuest writes the embedded scripts to root/guest.
func copyGuest(root string) error {
	return fs.WalkDir(guest, "guest", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(root, name)
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		text, err := guest.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(to, text, 0o755)
	})
}
