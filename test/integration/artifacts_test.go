package integration

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// artifactOf makes an artifact of blobs.
func artifactOf(t *testing.T, blobs ...mutate.Addendum) v1.Image {
	t.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.example.model.config")
	img, err := mutate.Append(img, blobs...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// titled is a blob that is a file of an artifact.
func titled(title string, content []byte) mutate.Addendum {
	return mutate.Addendum{
		Layer:       static.NewLayer(content, "application/octet-stream"),
		Annotations: map[string]string{"org.opencontainers.image.title": title},
	}
}

// packed is a directory as ORAS packs it.
func packed(t *testing.T, title string, tar []byte) mutate.Addendum {
	t.Helper()
	var blob bytes.Buffer
	w := gzip.NewWriter(&blob)
	if _, err := w.Write(tar); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	a := titled(title, blob.Bytes())
	a.Annotations["io.deis.oras.content.unpack"] = "true"
	a.Annotations["io.deis.oras.content.digest"] = digest.FromBytes(tar).String()
	return a
}

// TestArtifactVolumes: an artifact is pulled, listed and removed like an image, its blobs
// are files of a volume, and it is not run.
func TestArtifactVolumes(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	const name = "registry.example/model:1"
	weights := randomBytes(3<<20 + 17)
	artifact := artifactOf(t,
		titled("config.json", []byte("{}\n")), titled("weights/part-1", weights), titled("weights/part-2", []byte("two")),
		titled("archive.tar", tarOf(t, file("inside", []byte("packed")))),
		packed(t, "docs", tarOf(t, file("docs/index", []byte("unpacked")))))
	if err := n.Registry.Add(t.TempDir(), name, artifact); err != nil {
		t.Fatal(err)
	}
	before := n.used()
	id := n.Pull(name)
	if want, err := artifact.Digest(); err != nil || id != want.String() {
		t.Errorf("the artifact is %s, its manifest %s, %v", id, want, err)
	}
	list, err := n.Images.ListImages(t.Context(), &cri.ListImagesRequest{})
	if err != nil || !slices.ContainsFunc(list.GetImages(), func(i *cri.Image) bool { return i.GetId() == id && slices.Equal(i.GetRepoTags(), []string{name}) }) {
		t.Errorf("the images are %v, %v", list.GetImages(), err)
	}
	if grown := n.used() - before; grown < int64(len(weights)) || grown > int64(len(weights))+256<<10 {
		t.Errorf("the store has grown by %d bytes for an artifact of %d", grown, len(weights))
	}
	p := n.PodConfig()
	pod := n.RunPod(p)
	volume := func(path, sub string) *cri.Mount {
		return &cri.Mount{ContainerPath: path, Readonly: true, Image: &cri.ImageSpec{Image: name}, ImageSubPath: sub}
	}
	c := n.ContainerConfig("sleep", "3600")
	c.Mounts = []*cri.Mount{volume("/model", ""), volume("/weights", "weights")}
	container := n.Started(pod, p, c)
	script := "ls /model /weights; sha256sum < /model/weights/part-1; cat /weights/part-2 /model/docs/index /model/config.json; tar -xOf /model/archive.tar"
	want := "/model:\narchive.tar\nconfig.json\ndocs\nweights\n\n/weights:\npart-1\npart-2\n" +
		digest.FromBytes(weights).Encoded() + "  -\ntwounpacked{}\npacked"
	if got := n.Exec(container, "sh", "-c", script); got != want {
		t.Errorf("the volumes hold %q, want %q", got, want)
	}
	if got := n.Exec(container, "sh", "-c", "touch /model/x 2>/dev/null || echo > /weights/part-2 || echo no"); !strings.HasSuffix(got, "no\n") {
		t.Errorf("volumes can be written to: %q", got)
	}
	create := func(change func(*cri.ContainerConfig)) error {
		c := n.ContainerConfig("sleep", "3600")
		change(c)
		_, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
		return err
	}
	if err := create(func(c *cri.ContainerConfig) { c.Mounts = []*cri.Mount{volume("/model", "none")} }); err == nil {
		t.Error("a sub-path that is not there makes a container")
	}
	err = create(func(c *cri.ContainerConfig) { c.Image.Image = name })
	WantCode(t, err, codes.FailedPrecondition)
	if err == nil || !strings.Contains(err.Error(), "artifact") {
		t.Errorf("a container of an artifact: %v", err)
	}
	if _, err := n.Images.RemoveImage(t.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: name}}); err != nil {
		t.Fatal(err)
	}
	if left := n.used() - before; left > 64<<10 || left < 0 {
		t.Errorf("%d bytes more than before the artifact are used", left)
	}
	if got := n.Exec(container, "cat", "/weights/part-2"); got != "two" {
		t.Errorf("the volume of a removed artifact holds %q", got)
	}
}
