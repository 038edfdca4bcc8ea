package diff

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// lines are the whole lines of the container's log, by stream.
func (s *scene) lines() (stdout, stderr []string, err error) {
	data, err := os.ReadFile(filepath.Join(s.r.pod.GetLogDirectory(), s.r.container.GetLogPath()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	parts := map[string]string{}
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if !strings.HasSuffix(line, "\n") {
			break // being written
		}
		if len(f) != 4 {
			return nil, nil, fmt.Errorf("the log has a line %q", line)
		}
		if parts[f[1]] += f[3]; f[2] != "F" {
			continue
		}
		if f[1] == "stderr" {
			stderr = append(stderr, parts[f[1]])
		} else {
			stdout = append(stdout, parts[f[1]])
		}
		parts[f[1]] = ""
	}
	return stdout, stderr, nil
}

// line waits for the first line that the container says.
func (s *scene) line(ctx context.Context) (string, error) {
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		stdout, stderr, err := s.lines()
		if err != nil {
			return "", err
		}
		if len(stdout) > 0 {
			s.logRead = 1
			return stdout[0], nil
		}
		resp, err := s.runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: s.container})
		if err != nil {
			return "", err
		}
		st := resp.GetStatus()
		if gone := st.GetState() == cri.ContainerState_CONTAINER_EXITED; gone || time.Now().After(end) {
			return "", fmt.Errorf("the probe says nothing: %s, exit code %d, %s, %v", st.GetState(), st.GetExitCode(), st.GetMessage(), stderr)
		}
	}
}

// ended waits for the container's end.
func (s *scene) ended(ctx context.Context) error {
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		resp, err := s.runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: s.container})
		if err != nil {
			return err
		}
		if resp.GetStatus().GetState() == cri.ContainerState_CONTAINER_EXITED {
			return nil
		}
		if time.Now().After(end) {
			return errors.New("the container does not end")
		}
	}
}

// settleTime is how long a log may grow after the container's end.
const settleTime = 300 * time.Millisecond

// keepLog keeps what the container has said besides the probe's document.
func (s *scene) keepLog() error {
	before := -1
	for {
		stdout, stderr, err := s.lines()
		if err != nil {
			return err
		}
		if n := len(stdout) + len(stderr); n != before {
			before = n
			time.Sleep(settleTime)
			continue
		}
		s.out["log.stdout"] = strings.Join(stdout[min(s.logRead, len(stdout)):], "\n")
		s.out["log.stderr"] = strings.Join(stderr, "\n")
		return nil
	}
}
