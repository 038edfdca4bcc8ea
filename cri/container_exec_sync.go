package cri

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime"
)

// execOutput is how much of each output stream ExecSync keeps, as the CRI has it.
const execOutput = 16 << 20

// ExecSync runs a command in a running container and answers its output and exit code.
// When the timeout passes, the command and its descendants are killed and the answer is
// DeadlineExceeded. A caller that leaves earlier leaves the command running.
func (s *Server) ExecSync(ctx context.Context, req *v1.ExecSyncRequest) (*v1.ExecSyncResponse, error) {
	if len(req.GetCmd()) == 0 {
		return nil, fmt.Errorf("cmd is empty: %w", errdefs.ErrInvalidArgument)
	}
	if req.GetTimeout() < 0 {
		return nil, fmt.Errorf("timeout %d is negative: %w", req.GetTimeout(), errdefs.ErrInvalidArgument)
	}
	_, c, err := s.runningContainer(req.GetContainerId(), "exec in")
	if err != nil {
		return nil, err
	}
	var stdout, stderr capped
	exit, err := c.Exec(ctx, runtime.ExecConfig{
		Args:    req.GetCmd(),
		Timeout: time.Duration(req.GetTimeout()) * time.Second,
		Streams: runtime.Streams{Stdout: &stdout, Stderr: &stderr},
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("exec in container: %w", err)
	case exit.TimedOut:
		return nil, fmt.Errorf("exec in container: the timeout of %d s has passed: %w", req.GetTimeout(), context.DeadlineExceeded)
	case exit.Unknown:
		return nil, fmt.Errorf("exec in container: the exit code is unknown: %w", errdefs.ErrUnavailable)
	}
	return &v1.ExecSyncResponse{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), ExitCode: exit.Code}, nil
}

// capped keeps the first execOutput bytes and swallows the rest, so that the command
// goes on.
type capped struct{ buf bytes.Buffer }

func (c *capped) Bytes() []byte { return c.buf.Bytes() }

func (c *capped) Write(p []byte) (int, error) {
	c.buf.Write(p[:min(len(p), execOutput-c.buf.Len())])
	return len(p), nil
}
