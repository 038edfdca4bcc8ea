package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Pattern is what a file system consists of, without its zeros. It is never changed.
type Pattern struct{ extents []extent }

// extent is a piece of a file system that is not all zero.
type extent struct {
	offset int64
	data   []byte
}

const (
	// makeTime bounds the making of a file system, which takes some 30 ms.
	makeTime = 30 * time.Second
	// maxPattern bounds what an empty file system may consist of. Those that are made here
	// have 0.2 MiB for 64 GiB, and grow by 4 KiB for each 8 GiB.
	maxPattern = 64 << 20
)

// features of the file systems: without a journal and checksums, since a disk is never
// read after its machine's end, and all metadata in one place. Nothing of the inode
// tables is written, and they are marked as zeroed, so the guest does not zero them
// either, which would allocate a sixty-fourth of the disk on the host.
func features() []string {
	return []string{
		"-q", "-F", "-m", "0", "-b", "4096",
		"-O", "^has_journal,^resize_inode,^metadata_csum,uninit_bg,sparse_super2",
		"-E", "num_backup_sb=0,packed_meta_blocks=1,discard,root_owner=0:0",
	}
}

// empty returns what an empty file system consists of. It is made at the first call; a
// failure is not remembered.
func (s *Store) empty(ctx context.Context) ([]extent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pattern != nil {
		return s.pattern, nil
	}
	began := time.Now()
	fd, err := unix.MemfdCreate("empty-disk", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "empty-disk")
	defer f.Close()
	if err := f.Truncate(s.options.Bytes); err != nil {
		return nil, fmt.Errorf("size memory file: %w", err)
	}
	if err := s.format(ctx, f); err != nil {
		return nil, err
	}
	pattern, err := read(f, s.options.Bytes)
	if err != nil {
		return nil, err
	}
	s.pattern = pattern
	s.options.Log.Debug("made file system for disks", "bytes", s.options.Bytes, "extents", len(pattern), "took", time.Since(began))
	return pattern, nil
}

func (s *Store) format(ctx context.Context, f *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, makeTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.options.Program, append(features(), "/proc/self/fd/3")...)
	cmd.ExtraFiles = []*os.File{f}
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("find %s (package e2fsprogs): %w: %w", s.options.Program, errdefs.ErrFailedPrecondition, err)
	}
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", s.options.Program, err, strings.Join(strings.Fields(string(out)), " "))
	}
	return nil
}

// block is the unit in which zeros are left out.
const block = 4096

// read collects the parts of a file that are not zero.
func read(f *os.File, size int64) ([]extent, error) {
	var pattern []extent
	total, end := 0, int64(0)
	for end < size {
		start, err := unix.Seek(int(f.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err == nil {
			end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		}
		if err != nil {
			return nil, fmt.Errorf("find data of file system: %w", err)
		}
		if total += int(end - start); end-start > maxPattern || total > maxPattern {
			return nil, fmt.Errorf("read file system: more than %d bytes of data: %w", maxPattern, errdefs.ErrFailedPrecondition)
		}
		data := make([]byte, end-start)
		if _, err := f.ReadAt(data, start); err != nil {
			return nil, fmt.Errorf("read file system: %w", err)
		}
		pattern = appendData(pattern, start, data)
	}
	if len(pattern) == 0 {
		return nil, fmt.Errorf("read file system: it is empty: %w", errdefs.ErrFailedPrecondition)
	}
	return pattern, nil
}

// appendData cuts blocks of zeros out of data.
func appendData(pattern []extent, start int64, data []byte) []extent {
	zeros := make([]byte, block)
	from := 0 // where the piece under way begins
	for at := 0; at < len(data); at += block {
		next := min(at+block, len(data))
		if !bytes.Equal(data[at:next], zeros[:next-at]) {
			continue
		}
		if at > from {
			pattern = append(pattern, extent{start + int64(from), data[from:at]})
		}
		from = next
	}
	if from < len(data) {
		pattern = append(pattern, extent{start + int64(from), data[from:]})
	}
	return pattern
}

// fill makes an empty file a file system.
func fill(f *os.File, size int64, pattern []extent) error {
	if err := f.Truncate(size); err != nil {
		return err
	}
	for _, e := range pattern {
		if _, err := f.WriteAt(e.data, e.offset); err != nil {
			return err
		}
	}
	return nil
}
