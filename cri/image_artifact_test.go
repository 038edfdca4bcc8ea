package cri

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime/image"
)

// TestArtifacts: an artifact is listed and told of like an image, can be mounted, and no
// container is made of it.
func TestArtifacts(t *testing.T) {
	m := newMachine(t)
	const name, kind = "registry.example/model:1", "application/vnd.example.model"
	model := image.Image{
		ID: digest.FromString("manifest"), Artifact: kind, RepoTags: []string{name}, RepoDigests: []string{"registry.example/model@sha256:89ab"},
		Size: 9, Layers: []digest.Digest{digest.FromString("file")},
	}
	hollow := image.Image{ID: digest.FromString("hollow"), Artifact: kind, RepoTags: []string{"registry.example/hollow:1"}}
	images := m.server.opts.Images.(*paperImages)
	images.images = append(images.images, model, hollow)

	l, err := m.server.ListImages(t.Context(), &v1.ListImagesRequest{})
	if err != nil || len(l.GetImages()) != 3 {
		t.Errorf("list: %v, %v", l, err)
	}
	st, err := m.server.ImageStatus(t.Context(), &v1.ImageStatusRequest{Image: &v1.ImageSpec{Image: name}, Verbose: true})
	if i := st.GetImage(); err != nil || i.GetId() != model.ID.String() || i.GetSize() != 9 || i.GetUid() != nil || i.GetUsername() != "" ||
		!strings.Contains(st.GetInfo()["info"], `"artifactType":"`+kind+`"`) {
		t.Errorf("status: %v, %v", st, err)
	}

	pod := m.runPod(t, "p")
	create := func(change func(*v1.ContainerConfig)) (string, error) {
		c := containerConfig("c")
		change(c)
		r, err := m.server.CreateContainer(t.Context(), &v1.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: podConfig("p")})
		return r.GetContainerId(), err
	}
	for _, ref := range []string{name, model.ID.String()} {
		_, err := create(func(c *v1.ContainerConfig) { c.Image.Image = ref })
		if codeOf(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), kind) || !strings.Contains(err.Error(), "mounted") {
			t.Errorf("container of an artifact: %v", err)
		}
	}
	volume := func(ref string) func(*v1.ContainerConfig) {
		return func(c *v1.ContainerConfig) {
			c.Mounts = []*v1.Mount{{ContainerPath: "/model", Readonly: true, Image: &v1.ImageSpec{Image: ref}}}
		}
	}
	if _, err := create(volume("registry.example/hollow:1")); codeOf(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "no files") {
		t.Errorf("an artifact without files as a volume: %v", err)
	}
	if n := len(m.store.Containers.List()); n != 0 {
		t.Errorf("%d containers were made", n)
	}
	id, err := create(volume(name))
	if err != nil {
		t.Fatal(err)
	}
	r, err := m.server.ContainerStatus(t.Context(), &v1.ContainerStatusRequest{ContainerId: id})
	if mounts := r.GetStatus().GetMounts(); err != nil || len(mounts) != 1 || mounts[0].GetImage().GetImageRef() != model.ID.String() {
		t.Errorf("mounts: %v, %v", mounts, err)
	}
}
