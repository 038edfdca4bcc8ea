package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cricket-cri/cricket/runtime/image"
)

// artifact writes an artifact as it came in: manifest, configuration and blobs are the same
// bytes. What was unpacked is not kept as it came, and nothing makes the same bytes again.
func (x *exporting) artifact(ctx context.Context, img Exported) error {
	var m ocispec.Manifest
	if err := json.Unmarshal(img.Documents.Manifest, &m); err != nil {
		return fmt.Errorf("read manifest: %w: %w", errdefs.ErrDataLoss, err)
	}
	for i, b := range img.Documents.Blobs {
		if err := x.artifactBlob(ctx, b); err != nil {
			return fmt.Errorf("blob %d: %w", i+1, err)
		}
	}
	if err := x.raw(m.Config.Digest, img.Documents.Config); err != nil {
		return err
	}
	if err := x.raw(img.ID, img.Documents.Manifest); err != nil {
		return err
	}
	x.enter(ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: m.ArtifactType, Digest: img.ID, Size: int64(len(img.Documents.Manifest)),
	}, img.Names)
	return nil
}

// raw writes a blob that is at hand, once.
func (x *exporting) raw(sum digest.Digest, raw []byte) error {
	if x.blobs[sum] {
		return nil
	}
	x.blobs[sum] = true
	return x.to.write(blobName(sum), raw)
}

func (x *exporting) artifactBlob(ctx context.Context, b image.Blob) error {
	switch {
	case x.blobs[b.Digest]:
		return nil
	case b.Layer == "":
		return x.raw(b.Digest, ocispec.DescriptorEmptyJSON.Data)
	case b.File == "":
		return fmt.Errorf("%w: %s is a directory that was packed into a tar, of which only the files are kept: copy the artifact from its registry to a layout (skopeo copy, oras copy)",
			errdefs.ErrFailedPrecondition, b.Digest)
	}
	f, err := x.to.scratch()
	if err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	defer os.Remove(f.Name()) // but where it was moved away
	defer f.Close()
	if err := x.file(ctx, b, f); err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	x.blobs[b.Digest] = true
	return x.to.put(blobName(b.Digest), f, b.Size)
}

// file copies what a layer has as its only file. Its digest is the blob's still, or the
// layer is damaged.
func (x *exporting) file(ctx context.Context, b image.Blob, f *os.File) error {
	from, to := io.Pipe()
	go func() { to.CloseWithError(x.Tar(ctx, b.Layer, to)) }()
	defer func() { _ = from.Close() }() // ends the other one, too
	sum := b.Digest.Verifier()
	var size int64
	for in := tar.NewReader(from); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg || h.Name != b.File {
			continue
		}
		seen := &count{report: func(n int64) {
			if x.Report != nil {
				x.Report(b.Layer, n, false)
			}
		}}
		if size, err = io.Copy(io.MultiWriter(f, sum, seen), in); err != nil {
			return err
		}
	}
	if size != b.Size || !sum.Verified() {
		return fmt.Errorf("%w: the layer %s has another file than %s", errdefs.ErrDataLoss, b.Layer, b.Digest)
	}
	if x.Report != nil {
		x.Report(b.Layer, size, true)
	}
	return nil
}
