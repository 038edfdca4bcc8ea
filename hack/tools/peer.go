package tools

import (
	"context"
	"os"
	"path/filepath"
)

// Peer builds the runtime that Cricket is compared with and returns a directory that holds
// containerd and its shim, and the path of runc.
func (b Builder) Peer(ctx context.Context) (bin, runc string, err error) {
	bin, err = filepath.Abs(filepath.Join(b.Cache, "containerd"))
	if err != nil {
		return "", "", err
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", "", err
	}
	for _, t := range Containerd() {
		path, err := b.Build(ctx, t)
		if err != nil {
			return "", "", err
		}
		link := filepath.Join(bin, t.Name)
		if err := os.RemoveAll(link); err != nil {
			return "", "", err
		}
		if err := os.Symlink(path, link); err != nil {
			return "", "", err
		}
	}
	runc, err = b.Build(ctx, Runc())
	return bin, runc, err
}
