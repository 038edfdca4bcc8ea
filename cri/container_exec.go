package cri

import (
	"context"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/stream"
	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
)

// Exec answers the URL of a session that runs a command in a running container.
func (s *Server) Exec(_ context.Context, req *v1.ExecRequest) (*v1.ExecResponse, error) {
	if err := checkCommand(req.GetCmd()); err != nil {
		return nil, err
	}
	rec, _, err := s.runningContainer(req.GetContainerId(), "exec in")
	if err != nil {
		return nil, err
	}
	return s.streams.GetExec(&v1.ExecRequest{
		ContainerId: rec.ID,
		Cmd:         req.GetCmd(),
		Tty:         req.GetTty(),
		Stdin:       req.GetStdin(),
		Stdout:      req.GetStdout(),
		Stderr:      req.GetStderr(),
	})
}

// StreamTargets is what a streaming server finds containers and sandboxes with.
func (s *Server) StreamTargets() stream.Targets { return streamTargets{s} }

type streamTargets struct{ s *Server }

func (t streamTargets) Container(id, verb string) (runtime.Container, error) {
	_, c, err := t.s.runningContainer(id, verb)
	return c, err
}

func (t streamTargets) Sandbox(id string) (sandbox.Sandbox, error) {
	_, sb, err := t.s.readySandbox(id)
	return sb, err
}
