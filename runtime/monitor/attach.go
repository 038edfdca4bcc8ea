package monitor

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
)

// attach connects a client to the streams of init until init has exited, the client is
// gone or, with nothing but input, that has ended.
func (c *container) attach(_ context.Context, conn net.Conn, req attachRequest) error {
	if st := c.state(); st.Phase == runtime.Exited {
		return fmt.Errorf("attach to container that is %s: %w", st.Phase, errdefs.ErrFailedPrecondition)
	}
	c.mu.Lock()
	in, master := c.stdin, c.console
	c.mu.Unlock()
	if master != nil {
		in = master
	}
	if !req.Stdin {
		in = nil
	}
	s := &session{conn: conn}
	tap := c.tee.add()
	defer c.tee.drop(tap)
	go s.input(in, func(size runtime.Size) { resizeTerminal(master, size) }, func(gone bool) {
		if req.Stdin {
			c.inputEnded()
		}
		if gone || !req.Stdout && !req.Stderr {
			c.tee.drop(tap)
		}
	})
	for {
		chunks, more, err := c.tee.next(tap)
		if !more {
			return err
		}
		for _, ch := range chunks {
			if ch.kind == frameStdout && req.Stdout || ch.kind == frameStderr && req.Stderr {
				s.write(ch.kind, ch.data)
			}
		}
	}
}

// inputEnded closes standard input if it was meant for one client.
func (c *container) inputEnded() {
	c.mu.Lock()
	once := c.rec.Request.StdinOnce && !c.rec.Request.Terminal && c.stdin != nil
	if once {
		closeAll(&c.stdin)
		c.rec.InputEnded = true
	}
	c.mu.Unlock()
	if !once {
		return
	}
	if err := c.save(); err != nil {
		c.srv.log.Warn("save end of input", slog.String("container", c.rec.Request.ID), slog.Any("error", err))
	}
}

// update changes the limits of a container that exists.
func (c *container) update(r *specs.LinuxResources) error {
	c.starting.Lock()
	defer c.starting.Unlock()
	if st := c.state(); st.Phase == runtime.Exited {
		return fmt.Errorf("update container that is %s: %w", st.Phase, errdefs.ErrFailedPrecondition)
	}
	if c.srv.inProcess(c.rec.Request) {
		return c.executeUpdate(r)
	}
	bundle, rt := c.rec.Request.Bundle, c.rec.Request.Runtime
	file := filepath.Join(bundle, "update-"+strconv.FormatUint(c.srv.calls.Add(1), 10)+".json")
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode resources: %w", err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return fmt.Errorf("write resources: %w", err)
	}
	defer os.Remove(file)
	return c.srv.call(rt, bundle, func(log string) []string { return rt.Update(log, file, c.rec.Request.ID) })
}

// adoptedExit waits for a process that an earlier monitor fathered.
func adoptedExit(pidfd *os.File) runtime.Exit {
	if err := waitProcess(pidfd); err != nil {
		return runtime.Exit{Code: -1, Unknown: true, At: time.Now()}
	}
	at := time.Now()
	if code, ok := exitSoon(pidfd); ok {
		return runtime.Exit{Code: code, At: at}
	}
	return runtime.Exit{Code: -1, Unknown: true, At: at}
}
