package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// cancelTime bounds how long QEMU may take to give up writing a state.
const cancelTime = 10 * time.Second

// unlimited is a rate, in bytes a second, that no file is written at: QEMU's own default is
// for networks that others use too.
const unlimited = 1 << 40

// Snapshot implements vmm.Snapshotter. The memory is part of the stream, whatever file it
// lies in: pages that are all zero take a few bytes.
func (m *machine) Snapshot(ctx context.Context, f *os.File) error {
	err := m.qmp.Execute(ctx, "migrate-set-parameters", map[string]any{"max-bandwidth": int64(unlimited)}, nil)
	if err == nil {
		if err = m.write(ctx, f, true); err != nil {
			err = errors.Join(err, m.giveUp(context.WithoutCancel(ctx)))
		}
	}
	if err != nil {
		return m.explain(fmt.Errorf("save machine as a whole: %w", err))
	}
	return nil
}

// giveUp ends the writing of a state, and returns when QEMU writes no more. One that is over
// has nothing to give up.
func (m *machine) giveUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cancelTime)
	defer cancel()
	if err := m.qmp.Execute(ctx, "migrate_cancel", nil, nil); err != nil {
		return fmt.Errorf("give up: %w", err)
	}
	for {
		var info struct {
			Status string `json:"status"`
		}
		if err := m.qmp.Execute(ctx, "query-migrate", nil, &info); err != nil {
			return fmt.Errorf("give up: %w", err)
		}
		switch info.Status {
		case "", "none", "completed", "failed", "cancelled":
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("give up: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}
