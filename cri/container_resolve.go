package cri

import (
	"cmp"
	"context"
	"fmt"
	"strings"

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
	img, err := s.findImage("config.image", rec.Config.GetImage(), pod)
	if err != nil {
		return runtime.Config{}, err
	}
	if img.Checkpoint != "" {
		// Restoring it here is what three advisories on containerd were about, and as an
		// image it would be something else than it says.
		return runtime.Config{}, fmt.Errorf("config.image: the image %q is a checkpoint of a container (%s), which is not restored by creating a container of it: %w",
			rec.Config.GetImage().GetImage(), img.Checkpoint, errdefs.ErrFailedPrecondition)
	}
	if img.Artifact != "" {
		return runtime.Config{}, fmt.Errorf("config.image: %q is an OCI artifact (%s) and no container image: it can be mounted as an image volume, and not be run: %w",
			rec.Config.GetImage().GetImage(), img.Artifact, errdefs.ErrFailedPrecondition)
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
	rec.ImageID, rec.ImageRef = img.ID.String(), imageRef(img)
	if len(img.RepoTags) > 0 {
		rec.ImageName = img.RepoTags[0]
	}
	rec.LogPath, rec.Resources, rec.User = cfg.LogPath, cfg.Resources, cfg.User
	return cfg, nil
}

func (s *Server) containerRequest(ctx context.Context, pod *store.Sandbox, rec *store.Container, img image.Image) containerRequest {
	name := cmp.Or(rec.Config.GetImage().GetUserSpecifiedImage(), rec.Config.GetImage().GetImage())
	return containerRequest{
		ID: rec.ID, SandboxID: pod.ID, Config: rec.Config, Sandbox: pod.Config,
		Image: img.Config.Config, ImageName: name, Layers: img.Layers,
		ReadFiles: func(names ...string) (map[string][]byte, error) {
			return s.opts.Layers.ReadFiles(ctx, img.Layers, names...)
		},
		ResolveImage: func(field string, m *v1.Mount) ([]digest.Digest, error) {
			i, err := s.findImage(field+".image", m.GetImage(), pod)
			if err != nil {
				return nil, err
			}
			if len(i.Layers) == 0 {
				return nil, fmt.Errorf("%s.image: %q has no files to mount: %w", field, m.GetImage().GetImage(), errdefs.ErrFailedPrecondition)
			}
			if rec.VolumeRefs == nil {
				rec.VolumeRefs = map[string]string{}
			}
			rec.VolumeRefs[m.GetContainerPath()] = i.ID.String()
			return i.Layers, nil
		},
		ProcessLabel: pod.ProcessLabel, MountLabel: pod.MountLabel,
		Host: s.hostFor(pod.Handler),
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

// imageRef names an image by its content: its digest in a repository, or its id.
func imageRef(i image.Image) string {
	if len(i.RepoDigests) > 0 {
		return i.RepoDigests[0]
	}
	return i.ID.String()
}

// findImage finds an image that was pulled before and that the pod may use. The kubelet sends the reference that
// PullImage answered, or the image's name. A digest beside it has to be the image's.
func (s *Server) findImage(field string, spec *v1.ImageSpec, pod *store.Sandbox) (image.Image, error) {
	ref := spec.GetImage()
	if ref == "" {
		return image.Image{}, badField(field+".image", "is required")
	}
	if err := s.checkImageHandler(field, spec); err != nil {
		return image.Image{}, err
	}
	if strings.HasPrefix(ref, "/") {
		return image.Image{}, badField(field+".image", "%q is a path: an archive of a checkpoint is not restored by creating a container of it", ref)
	}
	img, err := s.opts.Images.Get(ref)
	if err != nil {
		return image.Image{}, fmt.Errorf("%s: find image %q: %w", field, ref, err)
	}
	if want := spec.GetImageRef(); want != "" {
		other, err := s.opts.Images.Get(want)
		if err != nil && !errdefs.IsNotFound(err) {
			return image.Image{}, err
		}
		if err != nil || other.ID != img.ID {
			return image.Image{}, badField(field+".image_ref", "%q is not the image %q", want, ref)
		}
	}
	name := cmp.Or(spec.GetUserSpecifiedImage(), ref)
	if err := s.opts.Images.Allow(img.ID, name, pod.Config.GetMetadata().GetNamespace()); err != nil {
		return image.Image{}, fmt.Errorf("%s: %w", field, signatureError(err))
	}
	return img, nil
}

// checkImageHandler wants a runtime handler that there is: all share one image store, so
// that nothing else follows from it.
func (s *Server) checkImageHandler(field string, spec *v1.ImageSpec) error {
	if h := spec.GetRuntimeHandler(); h != "" && s.opts.Drivers[h] == nil {
		return badField(field+".runtime_handler", "%q is not configured", h)
	}
	return nil
}
