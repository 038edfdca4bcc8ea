package template

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/disk"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// image is a template: a machine's memory, the state of its devices, and what is on its
// disk, which is mounted.
type image struct {
	memory, state *os.File
	disk          *disk.Pattern // nil for machines without disks
	version       string        // of the hypervisor that made it
	info          agent.Info
	took          time.Duration
	users         int // guarded by Pool.mu; one is the pool itself
}

func (i *image) close() { _ = errors.Join(i.memory.Close(), i.state.Close()) }

// openState opens the state once more, since a hypervisor reads from where the one before
// has stopped.
func (i *image) openState() (*os.File, error) {
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", i.state.Fd()))
	if err != nil {
		return nil, fmt.Errorf("open template: %w", err)
	}
	return f, nil
}

// build boots a machine, lets it do what pods do, and saves it.
func (p *Pool) build(ctx context.Context) (_ *image, err error) {
	began := time.Now()
	img := &image{users: 1}
	if img.version, err = p.options.Hypervisor.Version(ctx); err != nil {
		return nil, err
	}
	if img.memory, err = memoryFile("memory", int64(p.options.Shape.MemoryMiB)<<20); err != nil {
		return nil, err
	}
	if img.state, err = memoryFile("state", 0); err != nil {
		return nil, errors.Join(err, img.memory.Close())
	}
	if err := p.record(ctx, img); err != nil {
		img.close()
		return nil, fmt.Errorf("make template: %w", err)
	}
	img.took = time.Since(began)
	return img, nil
}

// record runs the machine that becomes the template. It is gone afterwards.
func (p *Pool) record(ctx context.Context, img *image) error {
	b := p.newBirth(p.options.Boot)
	b.config.Memory = vmm.Memory{File: img.memory, Shared: true}
	steps := b.steps()
	for i, s := range steps {
		steps[i].Do = within(p.options.Boot, s.Do)
	}
	err := flow.Run(ctx, "make template", append(steps,
		flow.Step{Name: "warm up", Do: within(p.options.Life, func(ctx context.Context) error { return p.live(ctx, b.vm) })},
		flow.Step{Name: "settle", Do: func(ctx context.Context) error { return settle(ctx, templateSettles) }},
		flow.Step{Name: "save", Do: within(p.options.Clone, func(ctx context.Context) error { return b.save(ctx, img) })})...)
	if err != nil {
		p.leave(b.config.ID) // if it was not undone
		return err
	}
	img.info = b.vm.Info
	done := b.machine.Done()
	if err := p.discard(ctx, b.vm); err != nil {
		p.leave(b.config.ID)
		return err
	}
	select { // its memory can be sealed when nobody maps it any more
	case <-done:
	case <-time.After(p.options.Clone):
	}
	for _, f := range []*os.File{img.memory, img.state} {
		if err := seal(f); err != nil {
			return err
		}
	}
	return nil
}

// templateSettles is how long a template idles before it is saved. What its kernel has put
// off (freeing after grace periods, delayed work) every clone would otherwise do again, with
// code that is not translated yet and on memory that is not its own yet.
const templateSettles = time.Second

func settle(ctx context.Context, long time.Duration) error {
	t := time.NewTimer(long)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// save keeps the machine. Its disk stays mounted: in memory, the file system is what it is
// on the disk, and clones go on with copies of both. Mounting would take an emulated guest
// longer than all else up to its first answer.
func (b *birth) save(ctx context.Context, img *image) (err error) {
	if err := b.vm.Guest.Sync(ctx, false); err != nil {
		return fmt.Errorf("write to disk: %w", err)
	}
	if err := b.machine.Pause(ctx); err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	if len(b.vm.Mounted) > 0 {
		if img.disk, err = b.pool.options.Disks.Read(b.config.ID, firstDisk); err != nil {
			return err
		}
	}
	return b.machine.Save(ctx, img.state)
}

// within bounds what a step may take.
func within(limit time.Duration, do func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return do(ctx)
	}
}

func memoryFile(name string, size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate("cricket-template-"+name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(fmt.Errorf("size memory file: %w", err), f.Close())
	}
	return f, nil
}

// seal makes a memory file immutable: a clone that wants to give memory back would
// otherwise punch a hole into the memory of all clones.
func seal(f *os.File) error {
	const all = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, all); err != nil {
		return fmt.Errorf("seal memory file: %w", err)
	}
	return nil
}
