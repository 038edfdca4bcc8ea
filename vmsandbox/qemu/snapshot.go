package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	govmm "github.com/kata-containers/govmm/qemu"
)

// overTime bounds each step of saving that is carried out whatever the caller's time.
const overTime = 10 * time.Second

// overInterval is between two questions whether it is.
const overInterval = time.Millisecond

// unlimited is a rate, in bytes a second, that no file is written at: QEMU's own default is
// for networks that others use too.
const unlimited = 1 << 40

// Snapshot implements vmm.Snapshotter. The memory is part of the stream, whatever file it
// lies in: pages that are all zero take a few bytes.
func (m *machine) Snapshot(ctx context.Context, f *os.File, added []int64) error {
	if err := m.hasAdded(ctx, added); err != nil {
		return m.explain(fmt.Errorf("save machine as a whole: %w", err))
	}
	// What changes the machine is carried out to its end: half of it would be unknown.
	err := whole(ctx, m.takeOut)
	if err == nil {
		err = m.qmp.Execute(ctx, "migrate-set-parameters", map[string]any{"max-bandwidth": int64(unlimited)}, nil)
	}
	if err == nil {
		err = m.write(ctx, f, true)
		err = errors.Join(err, m.over(context.WithoutCancel(ctx), err != nil))
	}
	if back := whole(ctx, m.putBack); back != nil {
		// With other disks than its guest knows it must not go on.
		err = errors.Join(err, back, whole(ctx, m.quit))
	}
	if err != nil {
		return m.explain(fmt.Errorf("save machine as a whole: %w", err))
	}
	return nil
}

// hasAdded wants the machine to have the memory that its owner knows of: one of the two may
// have died between an addition and the record of it.
func (m *machine) hasAdded(ctx context.Context, added []int64) error {
	plugged, err := m.memoryDevices(ctx)
	if err != nil {
		return err
	}
	var has []int64
	for _, d := range plugged {
		if d.Type != dimmType {
			return fmt.Errorf("files are mapped as memory: %w", errdefs.ErrFailedPrecondition)
		}
		has = append(has, d.Data.Size)
	}
	if !slices.Equal(has, added) {
		return fmt.Errorf("memory of %v bytes was added, and %v is known of: %w", has, added, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// whole carries out what must not be left half done, whatever the caller's time.
func whole(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), overTime)
	defer cancel()
	return f(ctx)
}

func (m *machine) quit(ctx context.Context) error {
	return m.ask(func(q *govmm.QMP) error { return q.ExecuteQuit(ctx) })
}

// over ends the writing of a state, if it is to be given up, and returns when QEMU writes no
// more and the machine can go on. It cannot yet when QEMU first says that the state is
// written: "cont" is refused until the thread that has written it has ended.
func (m *machine) over(ctx context.Context, giveUp bool) error {
	ctx, cancel := context.WithTimeout(ctx, overTime)
	defer cancel()
	if giveUp {
		if err := m.qmp.Execute(ctx, "migrate_cancel", nil, nil); err != nil {
			return fmt.Errorf("give up: %w", err)
		}
	}
	for {
		done, err := m.isOver(ctx)
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of writing: %w", ctx.Err())
		case <-time.After(overInterval):
		}
	}
}

func (m *machine) isOver(ctx context.Context) (bool, error) {
	var writing, machine struct {
		Status string `json:"status"`
	}
	err := m.qmp.Execute(ctx, "query-migrate", nil, &writing)
	if err == nil {
		err = m.qmp.Execute(ctx, "query-status", nil, &machine)
	}
	if err != nil {
		return false, fmt.Errorf("ask whether writing is over: %w", err)
	}
	switch writing.Status {
	case "", "none", "completed", "failed", "cancelled":
		return machine.Status != "finish-migrate", nil
	default:
		return false, nil
	}
}
