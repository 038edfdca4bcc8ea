package diff

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// patience is how long a container may take to say what it sees, or to end.
const patience = time.Minute

// testCase is one pod with one container, and what is done with them.
type testCase struct {
	name   string // THEME/NAME
	change func(*request)
}

// request is what a case asks of an endpoint. Cases change the base that they are given.
type request struct {
	handler   string
	pod       *cri.PodSandboxConfig
	container *cri.ContainerConfig
	// dir is a directory of this request's own, for volumes; prepare fills it.
	dir     string
	prepare func(dir string) error
	// before runs in the pod beside the container, and is started first.
	before *cri.ContainerConfig
	// ends: the container ends by itself, and is no probe.
	ends bool
	// exec are commands besides the probe; execTimeout is theirs, in seconds.
	exec        [][]string
	execTimeout int64
	// update is asked for while the container runs.
	update *cri.LinuxContainerResources
	// stopTimeout is that of StopContainer, in seconds.
	stopTimeout int64
}

// observation is all that an endpoint showed of a case: dotted names and texts.
type observation struct {
	fields map[string]string
	// refusal is the call that was refused, so that nothing came after it, with its code.
	refusal string
	broken  string // the comparison itself did not work
}

// scene is a case under way on one endpoint.
type scene struct {
	*endpoint
	r         *request
	words     *words
	out       map[string]string
	pod       string
	container string
	logRead   int // of the lines of the container's log
	refusal   string
}

// errRefused ends a scene whose request was refused, which is an observation.
var errRefused = errors.New("refused")

// observe runs a case and removes all of it.
func (e *endpoint) observe(ctx context.Context, c testCase) observation {
	dir := filepath.Join(e.daemon.Paths.Dir, "cases", strings.ReplaceAll(c.name, "/", "-"))
	logs := filepath.Join(dir, "logs")
	for _, d := range []string{logs, filepath.Join(dir, "volume")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return observation{broken: err.Error()}
		}
	}
	r := base(c, logs)
	r.dir, r.handler = filepath.Join(dir, "volume"), e.handler
	c.change(r)
	s := &scene{endpoint: e, r: r, out: map[string]string{}, words: newWords(e, dir)}
	err := s.play(ctx)
	s.clear(context.WithoutCancel(ctx))
	o := observation{fields: s.words.plain(s.out), refusal: s.refusal}
	if err != nil && !errors.Is(err, errRefused) {
		o.broken = fmt.Sprintf("%s: %v", e.name, err)
	}
	return o
}

func (s *scene) play(ctx context.Context) error {
	if s.r.prepare != nil {
		if err := s.r.prepare(s.r.dir); err != nil {
			return err
		}
	}
	steps := []func(context.Context) error{s.runPod, s.runBefore, s.create, s.begin, s.meet, s.execute, s.change, s.measure, s.finish, s.remove}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// answered keeps the code of a call's answer.
func (s *scene) answered(call string, err error) {
	s.out["code."+call] = status.Code(err).String()
}

// refused tells of a call without which there is nothing more to see.
func (s *scene) refused(call string, err error) error {
	if err == nil {
		return nil
	}
	s.refusal = fmt.Sprintf("%s: %s", call, status.Code(err))
	return errRefused
}

func (s *scene) runPod(ctx context.Context) error {
	resp, err := s.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: s.r.pod, RuntimeHandler: s.r.handler})
	if err := s.refused("RunPodSandbox", err); err != nil {
		return err
	}
	s.pod = resp.GetPodSandboxId()
	s.words.replace(s.pod, "<pod>")
	list, err := s.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{Id: s.pod}})
	if err != nil {
		return err
	}
	s.out["pod.listed"] = strconv.Itoa(len(list.GetItems()))
	for _, item := range list.GetItems() {
		flatten(s.out, "pod.listed", item)
	}
	return s.podStatus(ctx, "pod.ready")
}

func (s *scene) podStatus(ctx context.Context, name string) error {
	resp, err := s.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: s.pod})
	if err != nil {
		return err
	}
	for i, ip := range append(resp.GetStatus().GetNetwork().GetAdditionalIps(), &cri.PodIP{Ip: resp.GetStatus().GetNetwork().GetIp()}) {
		if ip.GetIp() != "" {
			s.words.replace(ip.GetIp(), fmt.Sprintf("<ip %d>", i))
		}
	}
	flatten(s.out, name, resp)
	return nil
}

func (s *scene) runBefore(ctx context.Context) error {
	if s.r.before == nil {
		return nil
	}
	resp, err := s.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: s.pod, Config: s.r.before, SandboxConfig: s.r.pod})
	if err := s.refused("CreateContainer before", err); err != nil {
		return err
	}
	id := resp.GetContainerId()
	s.words.replace(id, "<container before>")
	if o := s.r.container.GetLinux().GetSecurityContext().GetNamespaceOptions(); o.GetPid() == cri.NamespaceMode_TARGET && o.GetTargetId() == "" {
		o.TargetId = id
	}
	_, err = s.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id})
	return s.refused("StartContainer before", err)
}

func (s *scene) create(ctx context.Context) error {
	resp, err := s.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: s.pod, Config: s.r.container, SandboxConfig: s.r.pod})
	if err := s.refused("CreateContainer", err); err != nil {
		return err
	}
	s.container = resp.GetContainerId()
	s.words.replace(s.container, "<container>")
	return s.containerStatus(ctx, "container.created")
}

func (s *scene) containerStatus(ctx context.Context, name string) error {
	resp, err := s.runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: s.container})
	if err != nil {
		return err
	}
	flatten(s.out, name, resp)
	return nil
}

func (s *scene) begin(ctx context.Context) error {
	_, err := s.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: s.container})
	if refused := s.refused("StartContainer", err); refused != nil {
		return errors.Join(refused, s.containerStatus(ctx, "container.failed"))
	}
	return nil
}

// meet waits for what the container says, or for its end if it ends by itself.
func (s *scene) meet(ctx context.Context) error {
	if s.r.ends {
		if err := s.ended(ctx); err != nil {
			return err
		}
		return s.keepLog()
	}
	line, err := s.line(ctx)
	if err != nil {
		return err
	}
	if err := s.keep("inside", []byte(line)); err != nil {
		return err
	}
	if err := s.containerStatus(ctx, "container.running"); err != nil {
		return err
	}
	list, err := s.runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{Id: s.container}})
	if err != nil {
		return err
	}
	s.out["container.listed"] = strconv.Itoa(len(list.GetContainers()))
	for _, item := range list.GetContainers() {
		flatten(s.out, "container.listed", item)
	}
	return s.podStatus(ctx, "pod.running")
}

// keep takes over what the probe said.
func (s *scene) keep(name string, document []byte) error {
	seen := map[string]string{}
	if err := json.Unmarshal(document, &seen); err != nil {
		return fmt.Errorf("what the probe says: %w: %.300q", err, document)
	}
	for field, text := range seen {
		s.out[name+"."+field] = text
	}
	return nil
}

func (s *scene) execute(ctx context.Context) error {
	if s.r.ends {
		return nil
	}
	resp, err := s.runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: s.container, Cmd: []string{"/probe", "now"}, Timeout: int64(patience.Seconds())})
	if err := s.refused("ExecSync", err); err != nil {
		return err
	}
	if resp.GetExitCode() != 0 {
		return fmt.Errorf("the probe in an exec ends with %d: %s%s", resp.GetExitCode(), resp.GetStdout(), resp.GetStderr())
	}
	if err := s.keep("exec", resp.GetStdout()); err != nil {
		return err
	}
	for i, command := range s.r.exec {
		resp, err := s.runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: s.container, Cmd: command, Timeout: s.r.execTimeout})
		name := fmt.Sprintf("command %d", i)
		s.answered("ExecSync "+name, err)
		s.out[name+".exit"], s.out[name+".stdout"] = strconv.Itoa(int(resp.GetExitCode())), string(resp.GetStdout())
		s.out[name+".stderr"] = string(resp.GetStderr())
	}
	return nil
}

// change updates the container and looks at its limits again.
func (s *scene) change(ctx context.Context) error {
	if s.r.update == nil {
		return nil
	}
	_, err := s.runtime.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: s.container, Linux: s.r.update})
	s.answered("UpdateContainerResources", err)
	resp, err := s.runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: s.container, Cmd: []string{"/probe", "now"}, Timeout: int64(patience.Seconds())})
	if err != nil {
		return err
	}
	if err := s.keep("updated", resp.GetStdout()); err != nil {
		return err
	}
	maps.DeleteFunc(s.out, func(name, _ string) bool {
		return strings.HasPrefix(name, "updated.") && !strings.HasPrefix(name, "updated.cgroup.") && name != "updated.oom_score_adj"
	})
	return s.containerStatus(ctx, "container.updated")
}

// measure keeps the shape of figures: which there are, not how large.
func (s *scene) measure(ctx context.Context) error {
	if s.r.ends {
		return nil
	}
	one, err := s.runtime.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: s.container})
	if s.answered("ContainerStats", err); err == nil {
		flatten(s.out, "stats.container", one.GetStats())
	}
	pod, err := s.runtime.PodSandboxStats(ctx, &cri.PodSandboxStatsRequest{PodSandboxId: s.pod})
	if s.answered("PodSandboxStats", err); err == nil {
		slices.SortFunc(pod.GetStats().GetLinux().GetContainers(), func(a, b *cri.ContainerStats) int {
			return strings.Compare(a.GetAttributes().GetMetadata().GetName(), b.GetAttributes().GetMetadata().GetName())
		})
		flatten(s.out, "stats.pod", pod.GetStats())
	}
	return nil
}

// finish stops the container, and then the pod.
func (s *scene) finish(ctx context.Context) error {
	_, err := s.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: s.container, Timeout: s.r.stopTimeout})
	if err := s.refused("StopContainer", err); err != nil {
		return err
	}
	if err := s.ended(ctx); err != nil {
		return err
	}
	if !s.r.ends {
		if err := s.keepLog(); err != nil {
			return err
		}
	}
	if err := s.containerStatus(ctx, "container.exited"); err != nil {
		return err
	}
	_, err = s.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: s.pod})
	if err := s.refused("StopPodSandbox", err); err != nil {
		return err
	}
	return s.podStatus(ctx, "pod.stopped")
}

// remove removes both, and asks for what is gone.
func (s *scene) remove(ctx context.Context) error {
	_, err := s.runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: s.container, Cmd: []string{"/probe", "now"}, Timeout: 10})
	s.answered("ExecSync after the end", err)
	_, err = s.runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: s.container})
	s.answered("RemoveContainer", err)
	_, err = s.runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: s.container})
	s.answered("ContainerStatus of none", err)
	_, err = s.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: s.pod})
	s.answered("RemovePodSandbox", err)
	_, err = s.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: s.pod})
	s.answered("PodSandboxStatus of none", err)
	return nil
}

// clear removes what a scene that broke off has left.
func (s *scene) clear(ctx context.Context) {
	if s.pod != "" {
		s.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: s.pod})
		s.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: s.pod})
	}
}
