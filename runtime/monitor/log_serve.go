package monitor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// logHead is what comes before the data of a frame: the frame's own head and the
	// offset of the first byte.
	logHead = frameOverhead + 8
	maxLog  = readSize - logHead // bytes of log in a frame
	// logPace is the least time between two frames that are not full: a guest pays dearly
	// for each.
	logPace = 5 * time.Millisecond
)

// streamLog sends the container's log from an offset on, whole lines only, until the
// container has exited and all is sent. What the client acknowledges is taken out of
// the file: its length stays, its blocks go.
func (c *container) streamLog(ctx context.Context, conn net.Conn, r LogRequest) error {
	path := c.rec.Request.LogPath
	if path == "" {
		return fmt.Errorf("read log: the container has none: %w", errdefs.ErrFailedPrecondition)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("read log: %w: %w", errdefs.ErrFailedPrecondition, err)
	}
	defer f.Close()
	from, err := firstData(f, r.Offset)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	acks := make(chan int64, 1) // the latest
	go func() {
		defer close(acks)
		defer cancel()
		takeAcks(conn, f, acks)
	}()
	end, err := c.sendLog(ctx, conn, f, from)
	if err == nil && end > from {
		awaitAck(acks, end)
	}
	conn.SetReadDeadline(time.Unix(1, 0)) // it is reading
	for range acks {
	}
	return err
}

// ackTime bounds how long the last acknowledgement is waited for, without which the end
// of the log would stay in memory.
const ackTime = 5 * time.Second

func awaitAck(acks <-chan int64, end int64) {
	late := time.NewTimer(ackTime)
	defer late.Stop()
	for {
		select {
		case at, ok := <-acks:
			if !ok || at >= end {
				return
			}
		case <-late.C:
			return
		}
	}
}

// firstData finds where to begin: what was acknowledged is not there any more.
func firstData(f *os.File, offset int64) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("read log: %w", err)
	}
	if offset < 0 || offset > st.Size() {
		return 0, fmt.Errorf("read log of %d bytes from %d on: %w", st.Size(), offset, errdefs.ErrInvalidArgument)
	}
	at, err := f.Seek(offset, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return st.Size(), nil
	case err != nil: // not all file systems know
		return offset, nil
	}
	return at, nil
}

// sendLog returns how far it came.
func (c *container) sendLog(ctx context.Context, conn net.Conn, f *os.File, at int64) (int64, error) {
	var last time.Time
	for {
		grown := c.logged.next()
		over := !c.running()
		sent, full, err := c.sendLogPart(conn, f, at)
		if sent > 0 {
			last = time.Now()
		}
		at += int64(sent)
		switch {
		case err != nil:
			return at, fmt.Errorf("read log: %w", err)
		case full:
			continue
		case over:
			return at, nil
		}
		select {
		case <-grown:
		case <-c.exited:
			continue
		case <-ctx.Done():
			return at, ctx.Err()
		}
		pace := time.NewTimer(time.Until(last.Add(logPace)))
		select {
		case <-pace.C:
		case <-c.exited:
		case <-ctx.Done():
		}
		pace.Stop()
	}
}

// sendLogPart sends one frame of whole lines. full says that there may be more.
func (c *container) sendLogPart(conn net.Conn, f *os.File, at int64) (sent int, full bool, err error) {
	buf := c.srv.buffers.get()
	defer c.srv.buffers.pool.Put(buf)
	n, err := f.ReadAt(buf[logHead:], at)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, false, err
	}
	whole := bytes.LastIndexByte(buf[logHead:logHead+n], '\n') + 1
	if n == maxLog && whole == 0 {
		whole = n // a longer line goes in pieces
	}
	if whole == 0 {
		return 0, false, nil
	}
	buf[0] = frameLog
	binary.BigEndian.PutUint32(buf[1:], uint32(8+whole))
	binary.BigEndian.PutUint64(buf[frameOverhead:], uint64(at))
	_, err = conn.Write(buf[:logHead+whole])
	return whole, n == maxLog, err
}

// takeAcks frees what the client has in safety, until the client is gone.
func takeAcks(conn net.Conn, f *os.File, acks chan int64) {
	page := int64(os.Getpagesize())
	buf := make([]byte, 8)
	freed := int64(0)
	for {
		kind, payload, err := readFrame(conn, buf)
		if err != nil {
			return
		}
		if kind != frameAck || len(payload) != 8 {
			continue
		}
		st, err := f.Stat()
		if err != nil {
			return
		}
		// Whole pages: of others the kernel would zero the beginning and keep the page.
		at := int64(binary.BigEndian.Uint64(payload))
		if safe := min(at, st.Size()) / page * page; safe > freed {
			// A file system that cannot do it keeps everything; nothing is wrong with that.
			_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, freed, safe-freed)
			freed = safe
		}
		select {
		case <-acks: // the one before is of no interest any more
		default:
		}
		acks <- at
	}
}
