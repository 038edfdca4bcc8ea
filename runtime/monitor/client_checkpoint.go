package monitor

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Checkpoint writes the state of a running container's processes, and calls while between
// that and the moment when they go on: what it reads of the container's files fits the
// state. The context of while ends with the freeze. The container goes on whatever
// happens, also if this process or the monitor dies. A monitor that is older than this
// call answers errdefs.ErrNotImplemented.
func (c *Client) Checkpoint(ctx context.Context, id string, r CheckpointRequest, while func(context.Context) error) (err error) {
	if err := r.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() != nil { // of all that fails then this is the cause
			err = fmt.Errorf("checkpoint container within %s: %w", r.Timeout.Round(10*time.Millisecond), ctx.Err())
		}
	}()
	conn, err := c.open(ctx, "checkpoint", id, r)
	if err != nil {
		return err
	}
	defer conn.Close()
	// The monitor has something to say of a timeout, too, and says it once it has thawed.
	stop := context.AfterFunc(ctx, func() {
		_ = writeFrame(conn, frameEOF, nil) // a dead connection shows where it is read
		conn.SetDeadline(time.Now().Add(settleTime))
	})
	defer stop()
	kind, payload, err := readFrameWithin(conn, nil, maxReply)
	if err != nil {
		return cut(err)
	}
	if kind == frameHeader {
		return decodeReply(payload, nil)
	}
	failed := while(ctx)
	if failed == nil {
		failed = ctx.Err() // the monitor may have thawed before it was done
	}
	if err := writeFrame(conn, frameEOF, nil); err != nil {
		return errors.Join(failed, cut(err))
	}
	if _, payload, err = readFrameWithin(conn, nil, maxReply); err != nil {
		return errors.Join(failed, cut(err))
	}
	return errors.Join(failed, decodeReply(payload, nil))
}
