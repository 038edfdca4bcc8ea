package checkpoint

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// tempName is the file in the directory of a checkpoint that names the archive while it is
// written.
const tempName = "archive.path"

// Dir is the directory in which one checkpoint is put together.
type Dir string

// Make makes an empty directory for the checkpoint of a container below parent, in place
// of what an earlier one may have left.
func Make(parent, id string) (Dir, error) {
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", fmt.Errorf("make directory of checkpoints: %w", err)
	}
	d := Dir(filepath.Join(parent, id))
	if err := d.Remove(); err != nil {
		return "", err
	}
	// The images hold the memory of processes.
	if err := os.Mkdir(string(d), 0o700); err != nil {
		return "", fmt.Errorf("make directory of checkpoint: %w", err)
	}
	if err := os.Mkdir(ImagesDir(string(d)), 0o700); err != nil {
		return "", errors.Join(fmt.Errorf("make directory of checkpoint: %w", err), d.Remove())
	}
	return d, nil
}

// Remove deletes the directory, and with it an archive that was not finished.
func (d Dir) Remove() error {
	temp, err := os.ReadFile(filepath.Join(string(d), tempName))
	if err == nil && len(temp) > 0 {
		err = os.Remove(string(temp))
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		err = nil
	}
	if err = errors.Join(err, os.RemoveAll(string(d))); err != nil {
		return fmt.Errorf("remove directory of checkpoint: %w", err)
	}
	return nil
}

// Sweep removes what checkpoints that were interrupted have left below parent.
func Sweep(parent string) error {
	left, err := os.ReadDir(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, d := range left {
		err = errors.Join(err, Dir(filepath.Join(parent, d.Name())).Remove())
	}
	return err
}

// Write completes the checkpoint with what is known of its container and writes the
// archive to location, which is replaced as a whole or not at all. Only its owner may read
// it. Errors: errdefs.ErrFailedPrecondition if it cannot be written there,
// errdefs.ErrResourceExhausted if the disk is full.
func (d Dir) Write(ctx context.Context, about About, location string) (err error) {
	if err := about.write(string(d)); err != nil {
		return err
	}
	out, err := d.create(location)
	if err != nil {
		return fmt.Errorf("write checkpoint: %w: %w", kindOf(err), err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreMissing(os.Remove(out.Name())))
		}
	}()
	err = d.pack(ctx, out, about.LogPath)
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("write checkpoint to %s: %w: %w", location, kindOf(err), err)
	}
	if err = os.Rename(out.Name(), location); err != nil {
		return fmt.Errorf("write checkpoint: %w: %w", kindOf(err), err)
	}
	return nil
}

// create makes the file that becomes the archive, beside it. Its name is noted before:
// should this process die, Sweep finds it.
func (d Dir) create(location string) (*os.File, error) {
	temp := filepath.Join(filepath.Dir(location), ".cricket-"+filepath.Base(string(d))+".tmp")
	if err := os.WriteFile(filepath.Join(string(d), tempName), []byte(temp), 0o600); err != nil {
		return nil, err
	}
	if err := ignoreMissing(os.Remove(temp)); err != nil {
		return nil, err
	}
	return os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// kindOf is the kind of a failure to write where a client wants it.
func kindOf(err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		return errdefs.ErrResourceExhausted
	}
	return errdefs.ErrFailedPrecondition
}

// pack writes the members of the archive, the small ones first: readers look for them.
func (d Dir) pack(ctx context.Context, to io.Writer, log string) error {
	out := tar.NewWriter(contextWriter{ctx, to})
	for _, name := range []string{configDump, specDump, statusDump, statusFile, "stats-dump", dumpLog} {
		if err := d.addFile(out, name); err != nil {
			return err
		}
	}
	if err := addLog(out, log); err != nil {
		return err
	}
	images, err := os.ReadDir(ImagesDir(string(d)))
	if err != nil {
		return err
	}
	if err := out.WriteHeader(&tar.Header{Name: imagesDir + "/", Typeflag: tar.TypeDir, Mode: 0o700}); err != nil {
		return err
	}
	for _, i := range images {
		if err := d.addFile(out, filepath.Join(imagesDir, i.Name())); err != nil {
			return err
		}
	}
	if err := d.addFile(out, rootfsDiff); err != nil {
		return err
	}
	return out.Close()
}

// addFile adds a regular file of the directory; one that is not there is left out, links
// that CRIU makes into directories too.
func (d Dir) addFile(out *tar.Writer, name string) error {
	f, err := os.OpenFile(filepath.Join(string(d), name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return add(out, name, f)
}

func add(out *tar.Writer, name string, f *os.File) error {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, Size: info.Size(), ModTime: info.ModTime(), Format: tar.FormatPAX}
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	if _, err := io.CopyN(out, f, h.Size); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// addLog adds the container's log as long as it is now: it grows meanwhile.
func addLog(out *tar.Writer, path string) error {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return add(out, logCopy, f)
}

// contextWriter ends a long copy with its context.
type contextWriter struct {
	ctx context.Context
	to  io.Writer
}

func (w contextWriter) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.to.Write(b)
}

func statOf(info fs.FileInfo) (*syscall.Stat_t, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	return st, ok
}
