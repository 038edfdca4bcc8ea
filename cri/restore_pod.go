package cri

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/nri"
	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/sandbox"
)

// restoring is a pod on its way out of a checkpoint.
type restoring struct {
	pod        *store.Sandbox
	containers []*store.Container
	driver     sandbox.Restorer
	want       sandbox.Restoration
}

// RestorePod makes a pod of a checkpoint. Its containers have not run since: StartContainer
// lets them go on. Unlike RunPodSandbox it ends with its caller's time, and a call that comes
// again is one of its own: the pod's name is taken if the first one had succeeded.
func (s *Server) RestorePod(ctx context.Context, req *v1.RestorePodRequest) (*v1.RestorePodResponse, error) {
	r, err := s.prepareRestore(ctx, req)
	if err == nil {
		err = s.restorePod(ctx, r)
	}
	if err != nil {
		return nil, fmt.Errorf("restore pod: %w", err)
	}
	answer := &v1.RestorePodResponse{PodSandboxId: r.pod.ID}
	for _, c := range r.containers {
		answer.RestoredContainers = append(answer.RestoredContainers, &v1.RestoredContainer{
			Name: c.Config.GetMetadata().GetName(), ContainerId: c.ID,
		})
	}
	return answer, nil
}

// prepareRestore checks all that can be known before anything is made.
func (s *Server) prepareRestore(ctx context.Context, req *v1.RestorePodRequest) (*restoring, error) {
	if err := needDeadline(ctx); err != nil {
		return nil, err
	}
	if err := noOptions(req.GetOptions()); err != nil {
		return nil, err
	}
	handler, driver, err := s.driver(req.GetRuntimeHandler())
	if err != nil {
		return nil, err
	}
	restorer, ok := driver.(sandbox.Restorer)
	if !ok {
		return nil, fmt.Errorf("pods of runtime handler %q share the node's kernel, only virtual machines can be restored: %w", handler, errdefs.ErrNotImplemented)
	}
	dir, err := checkpointDirectory(req.GetCheckpointPath())
	if err != nil {
		return nil, err
	}
	r := &restoring{driver: restorer, pod: &store.Sandbox{
		ID: newID(), Boot: s.opts.Boot, Handler: handler, Requested: req.GetRuntimeHandler(),
		Config: req.GetConfig(), CreatedAt: time.Now(),
	}}
	if r.want.Config, err = convertSandbox(r.pod.ID, req.GetConfig(), s.hostOf(driver)); err != nil {
		return nil, err
	}
	r.want.Dir, r.want.Config.CreatedAt = dir, r.pod.CreatedAt
	r.pod.Resources, r.pod.Overhead = r.want.Config.Resources, r.want.Config.Overhead
	r.pod.ProcessLabel, r.pod.MountLabel = r.want.Config.SELinuxLabel, r.want.Config.MountLabel
	was, err := readCheckpointRecord(dir)
	if err != nil {
		return nil, err
	}
	return r, s.prepareContainers(ctx, r, was, req.GetContainerConfigs())
}

func checkpointDirectory(path string) (string, error) {
	const field = "checkpoint_path"
	if !filepath.IsAbs(path) {
		return "", badField(field, "%q is not absolute", path)
	}
	is, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w: %w", field, errdefs.ErrFailedPrecondition, err)
	}
	if !is.IsDir() {
		return "", fmt.Errorf("%s: %s is not a directory: %w", field, path, errdefs.ErrFailedPrecondition)
	}
	return filepath.Clean(path), nil
}

// prepareContainers matches what is asked for with what the checkpoint has, by names.
func (s *Server) prepareContainers(ctx context.Context, r *restoring, was *checkpointRecord, configs []*v1.ContainerConfig) error {
	if len(configs) == 0 {
		return badField("container_configs", "is required")
	}
	left := map[string]*checkpointContainer{}
	for i := range was.Containers {
		left[was.Containers[i].config.GetMetadata().GetName()] = &was.Containers[i]
	}
	seen := map[string]bool{}
	for i, config := range configs {
		field := fmt.Sprintf("container_configs[%d]", i)
		name := config.GetMetadata().GetName()
		if name == "" {
			return badField(field+".metadata.name", "is required")
		}
		if seen[name] {
			return badField(field+".metadata.name", "%q is named twice", name)
		}
		seen[name] = true
		from := left[name]
		if from == nil {
			return fmt.Errorf("%s.metadata.name: the checkpoint has no container %q: %w", field, name, errdefs.ErrFailedPrecondition)
		}
		delete(left, name)
		rec := &store.Container{ID: newID(), SandboxID: r.pod.ID, Boot: s.opts.Boot, Config: config, CreatedAt: time.Now()}
		cfg, err := s.resolve(ctx, r.pod, rec)
		if err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		if err := sameProcess(from, rec); err != nil {
			return fmt.Errorf("%s.%w", field, err)
		}
		r.containers = append(r.containers, rec)
		r.want.Containers = append(r.want.Containers, sandbox.RestoredContainer{From: from.ID, Config: cfg})
	}
	if more := slices.Sorted(maps.Keys(left)); len(more) > 0 {
		return fmt.Errorf("container_configs: the checkpoint has %q too: %w", more, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// sameProcess refuses a configuration of another process than the one that was saved, or
// one that a process cannot be given that runs already. The error begins with the field.
func sameProcess(from *checkpointContainer, rec *store.Container) error {
	was, is := from.config, rec.Config
	wasSC, isSC := was.GetLinux().GetSecurityContext(), is.GetLinux().GetSecurityContext()
	mount := func(m *v1.Mount) string {
		return fmt.Sprintln(m.GetContainerPath(), m.GetReadonly(), m.GetRecursiveReadOnly(), m.GetPropagation(), m.GetMountOptions(), m.GetImage().GetImage(), m.GetImageSubPath())
	}
	mounts := func(c *v1.ContainerConfig) (all []string) {
		for _, m := range c.GetMounts() {
			all = append(all, mount(m))
		}
		slices.Sort(all)
		return all
	}
	env := func(c *v1.ContainerConfig) (all []string) {
		for _, e := range c.GetEnvs() {
			all = append(all, fmt.Sprintf("%s=%s", e.GetKey(), e.GetValue()))
		}
		slices.Sort(all)
		return all
	}
	// What is applied to a process that runs is left out: labels of the node's, limits.
	security := func(sc *v1.LinuxContainerSecurityContext) *v1.LinuxContainerSecurityContext {
		if sc == nil {
			return &v1.LinuxContainerSecurityContext{}
		}
		sc, _ = proto.Clone(sc).(*v1.LinuxContainerSecurityContext)
		sc.SelinuxOptions = nil
		return sc
	}
	for _, f := range []struct {
		name string
		same bool
	}{
		{"image", from.ImageID == rec.ImageID},
		{"command", slices.Equal(was.GetCommand(), is.GetCommand())},
		{"args", slices.Equal(was.GetArgs(), is.GetArgs())},
		{"working_dir", was.GetWorkingDir() == is.GetWorkingDir()},
		{"envs", slices.Equal(env(was), env(is))},
		{"mounts", slices.Equal(mounts(was), mounts(is))},
		{"stdin", was.GetStdin() == is.GetStdin() && was.GetStdinOnce() == is.GetStdinOnce()},
		{"tty", was.GetTty() == is.GetTty()},
		{"devices", len(was.GetDevices())+len(is.GetDevices()) == 0},
		{"CDI_devices", len(was.GetCDIDevices())+len(is.GetCDIDevices()) == 0},
		{"linux.security_context", proto.Equal(security(wasSC), security(isSC))},
	} {
		if !f.same {
			return fmt.Errorf("%s: the checkpoint has another: %w", f.name, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// restorePod makes the pod, or leaves nothing behind.
func (s *Server) restorePod(ctx context.Context, r *restoring) error {
	ids := []string{r.pod.ID}
	for _, c := range r.containers {
		ids = append(ids, c.ID)
	}
	for _, id := range ids { // new ones, which nobody else waits for
		unlock, err := s.locks.Exclusive(ctx, id)
		if err != nil {
			return err
		}
		defer unlock()
	}
	plugins := hold{plugins: s.plugins}
	defer plugins.release()
	var sb sandbox.Sandbox
	steps := []flow.Step{{
		Name: "record intent",
		Do:   func(context.Context) error { return s.store.Sandboxes.Add(r.pod) },
		Undo: func(context.Context) error { return s.store.Sandboxes.Delete(r.pod.ID) },
	}}
	for _, c := range r.containers {
		steps = append(steps, s.intendContainer(c)...)
	}
	steps = append(steps,
		flow.Step{
			Name: "restore sandbox",
			Do:   func(ctx context.Context) (err error) { sb, err = r.driver.Restore(ctx, r.want); return err },
			Undo: func(ctx context.Context) error { return discard(ctx, sb) },
		},
		plugins.step(),
		s.askPlugins(r.pod, &sb),
		flow.Step{
			Name: "find containers",
			Do:   func(ctx context.Context) error { return s.findRestored(ctx, sb, r) },
			Undo: func(context.Context) error {
				for _, c := range r.containers {
					s.live.forgetContainer(c.ID)
				}
				return nil
			},
		},
		flow.Step{Name: "record pod", Do: func(ctx context.Context) error { return s.recordRestored(ctx, sb, r) }})
	if err := flow.Run(ctx, "restore pod", steps...); err != nil {
		s.work.hurry() // what could not be undone has no record any more
		return err
	}
	s.live.setSandbox(r.pod.ID, sb)
	s.watchSandbox(r.pod.ID, sb)
	s.emit(v1.ContainerEventType_CONTAINER_CREATED_EVENT, r.pod, r.pod.ID)
	s.emit(v1.ContainerEventType_CONTAINER_STARTED_EVENT, r.pod, r.pod.ID)
	for _, c := range r.containers {
		s.emit(v1.ContainerEventType_CONTAINER_CREATED_EVENT, r.pod, c.ID)
		if s.plugins != nil {
			s.plugins.Created(ctx, s.podShown(r.pod), nri.Container(c))
		}
	}
	return nil
}

// intendContainer are the steps that record a container before there is one, with its log.
func (s *Server) intendContainer(rec *store.Container) []flow.Step {
	return []flow.Step{
		{
			Name: "record container intent",
			Do:   func(context.Context) error { return s.store.Containers.Add(rec) },
			Undo: func(context.Context) error { return s.store.Containers.Delete(rec.ID) },
		},
		{
			Name: "open log",
			Do:   func(context.Context) error { return openLog(rec.LogPath) },
			Undo: func(context.Context) error { return dropLog(rec.LogPath) },
		},
	}
}

// findRestored asks for each container, and for proof that it does not run. They are known
// all or none.
func (s *Server) findRestored(ctx context.Context, sb sandbox.Sandbox, r *restoring) error {
	found := make([]runtime.Container, len(r.containers))
	for i, rec := range r.containers {
		c, err := sb.Container(ctx, rec.ID)
		if err != nil {
			return err
		}
		state, err := c.State(ctx)
		if err != nil {
			return err
		}
		if state.Phase != runtime.Created {
			return fmt.Errorf("container %q is %s when it is restored: %w", rec.Config.GetMetadata().GetName(), state.Phase, errdefs.ErrInternal)
		}
		found[i] = c
	}
	for i, rec := range r.containers {
		s.live.setContainer(rec.ID, found[i])
	}
	return nil
}

// recordRestored makes intents what there is. A call whose time is over has failed.
func (s *Server) recordRestored(ctx context.Context, sb sandbox.Sandbox, r *restoring) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	for i, c := range r.containers {
		if r.containers[i], err = s.store.Containers.Update(c.ID, func(c *store.Container) { c.MadeAt = time.Now() }); err != nil {
			return err
		}
	}
	r.pod, err = s.store.Sandboxes.Update(r.pod.ID, func(p *store.Sandbox) { noteReady(p, sb) })
	return err
}
