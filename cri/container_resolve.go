package cri

import (
	"cmp"
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/image"
)

// resolve turns the request in rec into a runtime.Config, and puts what it finds out on
// the way into rec.
func (s *Server) resolve(ctx context.Context, pod *store.Sandbox, rec *store.Container) (runtime.Config, error) {
	img, err := s.findImage(rec.Config.GetImage(), pod)
	if err != nil {
		return runtime.Config{}, fmt.Errorf("config.image: %w", err)
	}
	if rec.StopSignal, err = stopSignal(rec.Config.GetStopSignal(), img.Config.Config.StopSignal); err != nil {
		return runtime.Config{}, err
	}
	cfg, err := convertContainer(s.containerRequest(ctx, pod, rec, img))
	if err != nil {
		return runtime.Config{}, err
	}
	if err := s.resolveTarget(pod, &cfg); err != nil {
		return runtime.Config{}, err
	}
	rec.ImageID, rec.ImageRef = img.ID.String(), img.ID.String()
	if len(img.RepoDigests) > 0 {
		rec.ImageRef = img.RepoDigests[0]
	}
	if len(img.RepoTags) > 0 {
		rec.ImageName = img.RepoTags[0]
	}
	rec.LogPath, rec.Resources, rec.User = cfg.LogPath, cfg.Resources, cfg.User
	return cfg, nil
}

func (s *Server) containerRequest(ctx context.Context, pod *store.Sandbox, rec *store.Container, img image.Image) containerRequest {
	name := cmp.Or(rec.Config.GetImage().GetUserSpecifiedImage(), rec.Config.GetImage().GetImage())
	host := s.host
	if d := s.opts.Drivers[pod.Handler]; d != nil {
		host = s.hostOf(d)
	}
	return containerRequest{
		ID: rec.ID, SandboxID: pod.ID, Config: rec.Config, Sandbox: pod.Config,
		Image: img.Config.Config, ImageName: name, Layers: img.Layers,
		ReadFiles: func(names ...string) (map[string][]byte, error) {
			return s.opts.Layers.ReadFiles(ctx, img.Layers, names...)
		},
		ResolveImage: func(spec *v1.ImageSpec) ([]digest.Digest, error) {
			i, err := s.findImage(spec, pod)
			return i.Layers, err
		},
		ProcessLabel: pod.ProcessLabel, MountLabel: pod.MountLabel,
		Host: host,
	}
}

// resolveTarget turns what the client calls the container whose processes shall be seen
// into an id of a running one in the same sandbox.
func (s *Server) resolveTarget(pod *store.Sandbox, cfg *runtime.Config) error {
	if cfg.PIDTarget == "" {
		return nil
	}
	target, err := s.store.Containers.Find(cfg.PIDTarget)
	switch {
	case err != nil:
		return fmt.Errorf("%s.target_id: %w", namespaceField, err)
	case target.SandboxID != pod.ID:
		return badField(namespaceField+".target_id", "the container belongs to another sandbox")
	case target.State() != v1.ContainerState_CONTAINER_RUNNING:
		return fmt.Errorf("%s.target_id: the container is not running: %w", namespaceField, errdefs.ErrFailedPrecondition)
	}
	cfg.PIDTarget = target.ID
	return nil
}

// findImage finds an image that was pulled before and that the pod may use. The kubelet
// sends the reference that PullImage answered, or the image's name.
func (s *Server) findImage(spec *v1.ImageSpec, pod *store.Sandbox) (image.Image, error) {
	ref := spec.GetImage()
	if ref == "" {
		return image.Image{}, fmt.Errorf("image is required: %w", errdefs.ErrInvalidArgument)
	}
	img, err := s.opts.Images.Get(ref)
	if err != nil {
		return image.Image{}, fmt.Errorf("find image %q: %w", ref, err)
	}
	name := cmp.Or(spec.GetUserSpecifiedImage(), ref)
	return img, signatureError(s.opts.Images.Allow(img.ID, name, pod.Config.GetMetadata().GetNamespace()))
}
