package cri

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime"
)

// execOutput is how much output ExecSync answers, in bytes. The CRI has it at 16 MB; a
// little less than 16 MiB is what fits into a message that the kubelet takes.
const execOutput = 16<<20 - 4<<10

// ExecSync runs a command in a running container and answers its output and exit code.
// When the timeout passes, the command and its descendants are killed and the answer is
// DeadlineExceeded. A caller that leaves earlier leaves the command running.
func (s *Server) ExecSync(ctx context.Context, req *v1.ExecSyncRequest) (*v1.ExecSyncResponse, error) {
	if err := checkCommand(req.GetCmd()); err != nil {
		return nil, err
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
		Timeout: time.Duration(min(req.GetTimeout(), maxSeconds)) * time.Second,
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
	out, errs := share(stdout.Bytes(), stderr.Bytes())
	return &v1.ExecSyncResponse{Stdout: out, Stderr: errs, ExitCode: exit.Code}, nil
}

// checkCommand refuses what cannot be executed, whatever is in the container.
func checkCommand(cmd []string) error {
	if len(cmd) == 0 {
		return badField("cmd", "is empty")
	}
	for i, word := range cmd {
		if strings.ContainsRune(word, 0) {
			return badField(at("cmd", i), "holds a zero byte")
		}
	}
	return nil
}

// share cuts two streams that are too long together; each may have half.
func share(a, b []byte) (keptA, keptB []byte) {
	const half = execOutput / 2
	switch {
	case len(a)+len(b) <= execOutput:
	case len(b) <= half:
		a = a[:execOutput-len(b)]
	case len(a) <= half:
		b = b[:execOutput-len(a)]
	default:
		a, b = a[:half], b[:half]
	}
	return a, b
}

// capped keeps the first execOutput bytes and swallows the rest, so that the command
// goes on.
type capped struct{ buf bytes.Buffer }

func (c *capped) Bytes() []byte { return c.buf.Bytes() }

func (c *capped) Write(p []byte) (int, error) {
	c.buf.Write(p[:min(len(p), execOutput-c.buf.Len())])
	return len(p), nil
}
