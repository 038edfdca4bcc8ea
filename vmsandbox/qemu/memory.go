package qemu

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// dimmType is what QEMU calls added memory, apart from mapped files.
const dimmType = "dimm"

// AddMemory plugs in memory of its own, which no template shares: a balloon on the
// template's would give nothing back.
func (m *machine) AddMemory(ctx context.Context, bytes int64) error {
	if bytes <= 0 || bytes%memoryStep != 0 {
		return fmt.Errorf("add memory: %d bytes are no multiple of %d: %w", bytes, memoryStep, errdefs.ErrInvalidArgument)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	plugged, err := m.memoryDevices(ctx)
	if err != nil {
		return m.explain(fmt.Errorf("add memory: %w", err))
	}
	total := int64(m.record.MemoryMiB)<<20 + bytes
	pieces := 0
	var end int64 // of all that is plugged in
	for _, p := range plugged {
		if p.Type == dimmType { // files that are mapped have room of their own
			total += p.Data.Size
			pieces++
		}
		end = max(end, p.end())
	}
	if total > int64(m.record.MaxMemoryMiB)<<20 || pieces >= vmm.MemoryPieces {
		return fmt.Errorf("add memory: %d bytes in %d pieces are more than the machine takes: %w", total, pieces+1, errdefs.ErrResourceExhausted)
	}
	if err := m.plugMemory(ctx, fmt.Sprintf("more%d", pieces), bytes, end); err != nil {
		return m.explain(fmt.Errorf("add memory: %w", err))
	}
	return nil
}

// plugMemory makes a DIMM, which lies behind all that is there, if anything is: QEMU would
// put it right behind a mapped file, where Linux, which wants it to begin with a step, takes
// no notice of it.
func (m *machine) plugMemory(ctx context.Context, id string, bytes, end int64) error {
	object := map[string]any{"qom-type": "memory-backend-ram", "id": id, "size": bytes}
	err := m.qmp.Execute(ctx, "object-add", object, nil)
	if err != nil && m.qmp.Execute(ctx, "object-del", map[string]any{"id": id}, nil) == nil {
		err = m.qmp.Execute(ctx, "object-add", object, nil) // there was one that no DIMM was made of
	}
	if err != nil {
		return err
	}
	dimm := map[string]any{"driver": "pc-dimm", "id": "dimm-" + id, "memdev": id}
	if end > 0 {
		dimm["addr"] = (end + memoryStep - 1) / memoryStep * memoryStep
	}
	if err := m.qmp.Execute(ctx, "device_add", dimm, nil); err != nil {
		return errors.Join(err, m.qmp.Execute(context.WithoutCancel(ctx), "object-del", map[string]any{"id": id}, nil))
	}
	return nil
}
