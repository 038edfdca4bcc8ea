package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cmd/cribench/figures"
)

const (
	// Where a container finds this program, and a directory of the host.
	probeDir, dataDir = "/cribench", "/cribench-data"
	// logLines are what a container writes to its log, of logLine bytes each.
	logLines, logLine = 640_000, 100
	// probeTime bounds one measurement in a container, in seconds.
	probeTime = 300
	// logTime bounds the writing of a log.
	logTime = 5 * time.Minute
)

// measureFiles reads the image's files and uses a directory of the host, in a container of
// each endpoint.
func measureFiles(ctx context.Context, s *session) error {
	defer s.retire(ctx)
	return s.turns(ctx, s.o.repeat, func(b *bench, _ int) error {
		p, err := b.stand(ctx, b.serving)
		if err != nil {
			return err
		}
		for _, args := range [][]string{{"root", "/"}, {"volume", dataDir}} {
			rates, err := p.probe(ctx, args...)
			if err != nil {
				return err
			}
			for _, name := range slices.Sorted(maps.Keys(rates)) {
				b.result.Add("files", name, figures.Rate, rates[name])
			}
		}
		return nil
	})
}

// measureNetwork sends into a pod of each endpoint and out of it.
func measureNetwork(ctx context.Context, s *session) error {
	defer s.retire(ctx)
	return s.turns(ctx, s.o.repeat, func(b *bench, _ int) error {
		p, err := b.stand(ctx, b.serving)
		if err != nil {
			return err
		}
		return p.network(ctx)
	})
}

// measureLog has a container of each endpoint write to its log.
func measureLog(ctx context.Context, s *session) error {
	defer s.retire(ctx)
	return s.turns(ctx, s.o.repeat, func(b *bench, turn int) error {
		p, err := b.stand(ctx, b.serving)
		if err != nil {
			return err
		}
		return p.log(ctx, turn)
	})
}

// serving gives a pod this program, a directory of the host, and the program that answers.
func (b *bench) serving(p *pod) (err error) {
	p.container.Mounts, err = b.probeMounts()
	p.container.Command = probeCommand("serve")
	return err
}

// probeMounts are this program and an empty directory.
func (b *bench) probeMounts() ([]*cri.Mount, error) {
	bin, data := filepath.Join(b.dir, "bin"), filepath.Join(b.dir, "data")
	if err := errors.Join(os.MkdirAll(bin, 0o755), os.MkdirAll(data, 0o777)); err != nil {
		return nil, err
	}
	if err := copySelf(filepath.Join(bin, "cribench")); err != nil {
		return nil, fmt.Errorf("copy this program: %w", err)
	}
	return []*cri.Mount{
		{HostPath: bin, ContainerPath: probeDir, Readonly: true},
		{HostPath: data, ContainerPath: dataDir},
	}, nil
}

func copySelf(to string) (err error) {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = io.Copy(f, from)
	return err
}

func probeCommand(args ...string) []string {
	return append([]string{filepath.Join(probeDir, "cribench"), "probe"}, args...)
}

// probe runs this program in the container and returns the rates that it found.
func (p *pod) probe(ctx context.Context, args ...string) (map[string]float64, error) {
	r, err := p.b.runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: p.ctr, Cmd: probeCommand(args...), Timeout: probeTime})
	if err != nil {
		return nil, fmt.Errorf("probe %s: %w", args[0], err)
	}
	if r.GetExitCode() != 0 {
		return nil, fmt.Errorf("probe %s: exit code %d: %s", args[0], r.GetExitCode(), r.GetStderr())
	}
	var rates map[string]float64
	if err := json.Unmarshal(r.GetStdout(), &rates); err != nil {
		return nil, fmt.Errorf("probe %s: %w: %.200q", args[0], err, r.GetStdout())
	}
	return rates, nil
}

// network measures between here and the pod.
func (p *pod) network(ctx context.Context) error {
	r, err := p.b.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err != nil {
		return fmt.Errorf("ask for the pod's address: %w", err)
	}
	in, out, err := streams(ctx, r.GetStatus().GetNetwork().GetIp())
	if err != nil {
		return fmt.Errorf("measure the network: %w", err)
	}
	p.b.result.Add("network", "into the pod", figures.Rate, in)
	p.b.result.Add("network", "out of the pod", figures.Rate, out)
	return nil
}

// log has a further container write to its log, from its start until all lines are there, and
// keeps how much processor time the daemon took for it, and its other processes.
func (p *pod) log(ctx context.Context, turn int) error {
	daemon, others := split(p.b.endpoint.processes)
	daemonBefore, err := cpuOf(daemon)
	if err != nil {
		return err
	}
	othersBefore, err := cpuOf(others)
	if err != nil {
		return err
	}
	ctr, rate, err := p.writeLog(ctx, turn)
	if err != nil {
		return fmt.Errorf("measure the log: %w", err)
	}
	daemonAfter, daemonErr := cpuOf(daemon)
	othersAfter, othersErr := cpuOf(others)
	if err := errors.Join(daemonErr, othersErr); err != nil {
		return err
	}
	p.b.result.Add("log", "log", figures.Rate, rate)
	if len(daemon) > 0 {
		p.b.result.Add("log", "daemon", figures.Seconds, (daemonAfter - daemonBefore).Seconds())
		p.b.result.Add("log", "other processes", figures.Seconds, max(0, (othersAfter-othersBefore).Seconds()))
	}
	if _, err := p.b.runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: ctr}); err != nil {
		return fmt.Errorf("remove the container that logged: %w", err)
	}
	return os.Remove(filepath.Join(p.config.LogDirectory, logPath(turn)))
}

// split tells a daemon from the processes that help it.
func split(processes []string) (daemon, others []string) {
	if len(processes) == 0 {
		return nil, nil
	}
	return processes[:1], processes[1:]
}

func logPath(turn int) string { return fmt.Sprintf("main/log-%d.log", turn) }

// writeLog returns while the container is still there: some helpers end with it, and take
// their processor time along.
func (p *pod) writeLog(ctx context.Context, turn int) (ctr string, rate float64, err error) {
	c, _ := proto.Clone(p.container).(*cri.ContainerConfig)
	c.Metadata.Name = fmt.Sprintf("log-%d", turn)
	c.Command = probeCommand("log", strconv.Itoa(logLines))
	c.LogPath = logPath(turn)
	r, err := p.b.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, Config: c, SandboxConfig: p.config})
	if err != nil {
		return "", 0, err
	}
	path, began := filepath.Join(p.config.LogDirectory, c.LogPath), time.Now()
	if _, err := p.b.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: r.GetContainerId()}); err != nil {
		return "", 0, err
	}
	rate, err = logRate(ctx, path, began)
	return r.GetContainerId(), rate, err
}

// logRate is measured between the first lines and the last, by what the container wrote:
// stamps come on top. The program's start is part of it only where half of the log is there
// when the first of it is seen.
func logRate(ctx context.Context, path string, began time.Time) (float64, error) {
	var first, end int64
	for deadline := time.Now().Add(logTime); time.Now().Before(deadline); {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		size := int64(0)
		if st, err := os.Stat(path); err == nil {
			size = st.Size()
		}
		switch {
		case size > 0 && end == 0:
			line, err := firstLine(path)
			if err != nil {
				return 0, err
			}
			end = logLines * line // 0 while there is no whole line
			if size < end/2 {
				began, first = time.Now(), size
			}
		case end > 0 && size >= end/10*9:
			// Lines differ in length where stamps do: some runtimes leave out zeros.
			done, err := hasLastLine(path, size)
			if err != nil {
				return 0, err
			}
			if done {
				return rateOf(logLines*logLine*(size-first)/size, began), nil
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
	return 0, fmt.Errorf("not all of it within %s", logTime)
}

// hasLastLine tells whether a log of that size ends with the line that is written last.
func hasLastLine(path string, size int64) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	tail := make([]byte, logLine)
	if _, err := f.ReadAt(tail, size-logLine); err != nil {
		return false, err
	}
	return bytes.Equal(tail, lastLine()), nil
}

// firstLine is the length of a log's first line, 0 if it is not whole yet; the others have about the same.
func firstLine(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	line, err := bufio.NewReader(f).ReadSlice('\n')
	if errors.Is(err, io.EOF) {
		return 0, nil
	}
	return int64(len(line)), err
}
