package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// mapping is a file that is mapped or to be mapped. The names of what it consists of have
// the number of its root port and say which file it is: who restarts asks QEMU.
type mapping struct {
	port int
	dev  uint64
	ino  uint64
}

const mappingFormat = "pmem%d.%x.%x"

func (p mapping) device() string { return fmt.Sprintf(mappingFormat, p.port, p.dev, p.ino) }
func (p mapping) memory() string { return "map-" + p.device() }

// bus is the number behind a root port: they are numbered in their order, from 1.
func (p mapping) bus() int { return p.port + 1 }

// Map plugs a virtio-pmem device for each file into a free root port, as far as there is
// none that has the file.
func (m *machine) Map(ctx context.Context, paths ...string) (buses []int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	buses, err = m.mapAll(ctx, paths)
	if err != nil {
		return nil, m.explain(fmt.Errorf("map files: %w", err))
	}
	return buses, nil
}

func (m *machine) mapAll(ctx context.Context, paths []string) (buses []int, err error) {
	there, free, err := m.mapped(ctx)
	if err != nil {
		return nil, err
	}
	var fresh []*os.File
	var sizes []int64
	defer func() {
		for _, f := range fresh {
			_ = f.Close()
		}
	}()
	var wanted []mapping
	for _, name := range paths {
		f, p, size, err := openMapping(name)
		if err != nil {
			return nil, err
		}
		port, ok := there[mapping{dev: p.dev, ino: p.ino}]
		if ok {
			_ = f.Close()
			buses = append(buses, mapping{port: port}.bus())
			continue
		}
		fresh, sizes = append(fresh, f), append(sizes, size)
		if len(wanted) == len(free) {
			return nil, fmt.Errorf("the files need more than %d root ports: %w", rootPorts, errdefs.ErrResourceExhausted)
		}
		p.port = free[len(wanted)]
		there[mapping{dev: p.dev, ino: p.ino}] = p.port
		wanted, buses = append(wanted, p), append(buses, p.bus())
	}
	if err := m.room(ctx, sizes); err != nil {
		return nil, err
	}
	for i, p := range wanted {
		if err := m.plug(ctx, p, fresh[i], sizes[i]); err != nil {
			return nil, err
		}
	}
	return buses, nil
}

func openMapping(name string) (*os.File, mapping, int64, error) {
	f, size, err := openDisk(name, true)
	if err != nil {
		return nil, mapping{}, 0, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &st); err == nil && (size == 0 || size%vmm.MapStep != 0) {
		err = fmt.Errorf("%d bytes are no multiple of %d: %w", size, vmm.MapStep, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		_ = f.Close()
		return nil, mapping{}, 0, err
	}
	return f, mapping{dev: st.Dev, ino: st.Ino}, size, nil
}

// mapped asks QEMU which files are behind which root ports, and which have nothing.
func (m *machine) mapped(ctx context.Context) (there map[mapping]int, free []int, err error) {
	plugged, err := m.memoryDevices(ctx)
	if err != nil {
		return nil, nil, err
	}
	there = map[mapping]int{}
	taken := map[int]bool{}
	for _, d := range plugged {
		var p mapping
		if n, _ := fmt.Sscanf(path.Base(d.Data.ID), mappingFormat, &p.port, &p.dev, &p.ino); n == 3 {
			taken[p.port] = true
			there[mapping{dev: p.dev, ino: p.ino}] = p.port
		}
	}
	for port := range rootPorts {
		if !taken[port] {
			free = append(free, port)
		}
	}
	return there, free, nil
}

// memoryDevice is added memory or a mapped file, the address of which has another name.
type memoryDevice struct {
	Type string `json:"type"`
	Data struct {
		ID      string `json:"id"`
		Addr    int64  `json:"addr"`
		Memaddr int64  `json:"memaddr"`
		Size    int64  `json:"size"`
	} `json:"data"`
}

func (d memoryDevice) end() int64 { return d.Data.Addr + d.Data.Memaddr + d.Data.Size }

func (m *machine) memoryDevices(ctx context.Context) (plugged []memoryDevice, err error) {
	err = m.qmp.Execute(ctx, "query-memory-devices", nil, &plugged)
	return plugged, err
}

// room keeps files from taking the room of memory that may have to be added.
func (m *machine) room(ctx context.Context, sizes []int64) error {
	plugged, err := m.memoryDevices(ctx)
	if err != nil {
		return err
	}
	left := int64(mapRoomMiB) << 20
	for _, d := range plugged {
		if d.Type != dimmType {
			left -= d.Data.Size
		}
	}
	for _, size := range sizes {
		left -= size
	}
	if left < 0 {
		return fmt.Errorf("the files are larger than the room of %d MiB: %w", mapRoomMiB, errdefs.ErrResourceExhausted)
	}
	return nil
}

// plug hands QEMU a file and makes the device.
func (m *machine) plug(ctx context.Context, p mapping, f *os.File, size int64) error {
	var set struct {
		ID int `json:"fdset-id"`
		FD int `json:"fd"`
	}
	if err := m.qmp.Execute(ctx, "add-fd", nil, &set, f); err != nil {
		return err
	}
	err := m.qmp.Execute(ctx, "object-add", map[string]any{
		"qom-type": "memory-backend-file", "id": p.memory(), "mem-path": fmt.Sprintf("/proc/self/fd/%d", set.FD),
		"size": size, "share": true, "readonly": true,
	}, nil)
	// What is mapped needs no descriptor.
	err = errors.Join(err, m.qmp.Execute(context.WithoutCancel(ctx), "remove-fd", map[string]any{"fdset-id": set.ID}, nil))
	if err != nil {
		return err
	}
	err = m.qmp.Execute(ctx, "device_add", map[string]any{
		"driver": "virtio-pmem-pci", "id": p.device(), "memdev": p.memory(), "bus": fmt.Sprintf("rp%d", p.port),
	}, nil)
	if err != nil {
		return errors.Join(err, m.qmp.Execute(context.WithoutCancel(ctx), "object-del", map[string]any{"id": p.memory()}, nil))
	}
	return nil
}
