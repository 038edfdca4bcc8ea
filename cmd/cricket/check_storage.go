package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/layer"
	"github.com/cricket-cri/cricket/sandbox/quota"
)

// scratch makes a directory under --root, where the real ones will be.
func (h host) scratch() (string, error) {
	if err := os.MkdirAll(h.config.Root, 0o711); err != nil {
		return "", err
	}
	return os.MkdirTemp(h.config.Root, "check-")
}

func (h host) overlay(context.Context) []finding {
	if err := h.tryOverlay(); err != nil {
		return []finding{{Name: "overlay", Grade: failed, Detail: err.Error(), Lacks: "root file systems of containers",
			Fix: "modprobe overlay; " + h.config.Root + " must lie on a file system that can hold an overlay's upper directory (ext4, xfs, btrfs)"}}
	}
	return []finding{ok("overlay", "mounts under %s", h.config.Root)}
}

func (h host) tryOverlay() (err error) {
	dir, err := h.scratch()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	merged := filepath.Join(dir, "merged")
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	if err := os.WriteFile(filepath.Join(merged, "file"), nil, 0o600); err != nil {
		return errors.Join(err, unix.Unmount(merged, 0))
	}
	return unix.Unmount(merged, 0)
}

// quota looks at what only those need who have asked for it.
func (h host) quota(context.Context) []finding {
	limit := h.config.Containers.WritableLimit
	if limit == 0 {
		return nil
	}
	err := os.MkdirAll(h.config.Root, 0o711)
	if err == nil {
		err = quota.Check(h.config.Root)
	}
	if err != nil {
		return []finding{{Name: "project quotas", Grade: failed, Detail: err.Error(), Lacks: "the daemon does not start with containers.writable_limit",
			Fix: "mount -o prjquota the file system of " + h.config.Root + ", or set containers.writable_limit = 0"}}
	}
	return []finding{ok("project quotas", "enforced under %s; a writable layer may hold %d MiB", h.config.Root, limit)}
}

func (h host) erofs(ctx context.Context) []finding {
	if err := h.tryErofs(ctx); err != nil {
		return []finding{{Name: "EROFS", Grade: failed, Detail: err.Error(), Lacks: "image layers",
			Fix: "modprobe erofs (Linux 5.4 or later, CONFIG_EROFS_FS); before Linux 6.12 also: modprobe loop"}}
	}
	return []finding{ok("EROFS", "a layer was made, mounted and read under %s", h.config.Root)}
}

// tryErofs takes a layer through its whole life.
func (h host) tryErofs(ctx context.Context) (err error) {
	dir, err := h.scratch()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, detach(filepath.Join(dir, "mounts")), os.RemoveAll(dir)) }()
	store, err := layer.Open(layer.Options{
		Root: filepath.Join(dir, "layers"), State: filepath.Join(dir, "mounts"), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	const content = "chirp\n"
	text, err := tinyLayer("hello", content)
	if err != nil {
		return err
	}
	id := digest.FromBytes(text)
	if err := store.Ingest(ctx, id, bytes.NewReader(text)); err != nil {
		return err
	}
	mounts, err := store.Mount(ctx, []digest.Digest{id})
	if err == nil {
		var got []byte
		got, err = os.ReadFile(filepath.Join(mounts[0], "hello"))
		if err == nil && string(got) != content {
			err = fmt.Errorf("read %q from the layer, not %q", got, content)
		}
	}
	return errors.Join(err, store.Remove(ctx, id))
}

// tinyLayer is a tar archive of one file.
func tinyLayer(name, content string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write([]byte(content))
	}
	return b.Bytes(), errors.Join(err, w.Close())
}

// detach undoes the private mount that the layer store makes of its state directory.
func detach(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // not a mount point
		return nil
	}
	return err
}
