package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// Sysctl implements agent.Guest.
func (g *Guest) Sysctl(_ context.Context, values map[string]string) error {
	root, err := os.OpenRoot("/proc/sys")
	if err != nil {
		return fmt.Errorf("open kernel parameters: %w: %w", errdefs.ErrInternal, err)
	}
	defer func() { _ = root.Close() }() // it was only looked through
	for name, value := range values {
		if err := setParameter(root, name, value); err != nil {
			return err
		}
	}
	return nil
}

func setParameter(root *os.Root, name, value string) error {
	file, err := parameterFile(name)
	if err != nil {
		return err
	}
	f, err := root.OpenFile(file, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("kernel parameter %q: %w", name, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return fmt.Errorf("set kernel parameter %q: %w: %w", name, errdefs.ErrInternal, err)
	}
	_, err = f.WriteString(value)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set kernel parameter %q to %q: %w: %w", name, value, errdefs.ErrInvalidArgument, err)
	}
	return nil
}

// parameterFile is the file of a kernel parameter below /proc/sys. Its name has dots
// between the parts and slashes where a part has a dot, as sysctl(8) has it, or the other
// way round.
func parameterFile(name string) (string, error) {
	file := name
	if dot, slash := strings.IndexByte(name, '.'), strings.IndexByte(name, '/'); slash < 0 || dot >= 0 && dot < slash {
		file = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, name)
	}
	if !filepath.IsLocal(file) || file == "." {
		return "", fmt.Errorf("kernel parameter %q: %w", name, errdefs.ErrInvalidArgument)
	}
	return file, nil
}

// Sync implements agent.Guest.
func (g *Guest) Sync(_ context.Context, drop bool) error {
	unix.Sync()
	if !drop {
		return nil
	}
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return fmt.Errorf("drop caches: %w: %w", errdefs.ErrInternal, err)
	}
	return nil
}

// onlineTime is how long added memory may take to be announced to the kernel, on a busy host.
const onlineTime = 10 * time.Second

// Online implements agent.Guest. It waits for memory that the kernel has not been told of
// yet, and raises the limit of all containers to what there is then, also if that is not all.
func (g *Guest) Online(ctx context.Context, added int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, onlineTime)
	defer cancel()
	has, err := g.takeBlocks(ctx, added)
	if err != nil {
		return err
	}
	if g.memory, err = memoryTotal(); err != nil {
		return err
	}
	if err := g.limitMemory(); err != nil {
		return err
	}
	if has < added {
		return fmt.Errorf("of %d bytes of memory that were added %d are there: %w", added, has, errdefs.ErrUnavailable)
	}
	return nil
}

// takeBlocks turns memory on until there are so many bytes more than at first, or ctx ends.
func (g *Guest) takeBlocks(ctx context.Context, added int64) (has int64, err error) {
	for {
		if err := onlineBlocks(); err != nil {
			return 0, err
		}
		all, err := blockBytes()
		if err != nil {
			return 0, err
		}
		if has = all - g.first; has >= added || ctx.Err() != nil {
			return has, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// memoryBlocks is where the kernel shows the pieces that memory is turned on and off in.
const memoryBlocks = "/sys/devices/system/memory"

// blockBytes is the memory that is on, in whole blocks.
func blockBytes() (int64, error) {
	text, err := os.ReadFile(filepath.Join(memoryBlocks, "block_size_bytes"))
	if err != nil {
		return 0, fmt.Errorf("read size of memory blocks: %w: %w", errdefs.ErrInternal, err)
	}
	size, err := strconv.ParseInt(strings.TrimSpace(string(text)), 16, 64)
	if err != nil {
		return 0, fmt.Errorf("read size of memory blocks: %w: %w", errdefs.ErrInternal, err)
	}
	blocks, err := filepath.Glob(filepath.Join(memoryBlocks, "memory*/state"))
	if err != nil {
		return 0, fmt.Errorf("list memory: %w: %w", errdefs.ErrInternal, err)
	}
	on := int64(0)
	for _, file := range blocks {
		if state, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(state)) == "online" {
			on += size
		}
	}
	return on, nil
}

// onlineBlocks turns on every block of memory that is off.
func onlineBlocks() error {
	blocks, err := filepath.Glob(filepath.Join(memoryBlocks, "memory*/state"))
	if err != nil {
		return fmt.Errorf("list memory: %w: %w", errdefs.ErrInternal, err)
	}
	for _, file := range blocks {
		state, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(state)) != "offline" {
			continue // it is on, or has gone
		}
		// EINVAL: the kernel was quicker.
		if err := os.WriteFile(file, []byte("online"), 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("take memory into use: %w: %w", errdefs.ErrInternal, err)
		}
	}
	return nil
}

var _ agent.Guest = (*Guest)(nil)
