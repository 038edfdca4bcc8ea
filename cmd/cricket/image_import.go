package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cricket-cri/cricket/runtime/image"
	"github.com/cricket-cri/cricket/runtime/image/archive"
)

// importOptions are the flags of `cricket image import`.
type importOptions struct {
	names      nameList
	platform   string
	pin        bool
	containerd string
	namespace  string
}

func imageImport(ctx context.Context, args []string, out io.Writer) error {
	fs, flags := imageFlags("image import")
	var o importOptions
	fs.Var(&o.names, "name", "the image's `name` here, instead of those in the archive; may be repeated")
	fs.StringVar(&o.platform, "platform", "", "choose another `platform` than this node's, such as linux/arm64")
	fs.BoolVar(&o.pin, "pin", false, "protect the images from the kubelet's garbage collection")
	fs.StringVar(&o.containerd, "from-containerd", "", "take the images of a containerd that is stopped: its root `directory`, mostly /var/lib/containerd")
	fs.StringVar(&o.namespace, "namespace", archive.KubernetesNamespace, "containerd's `namespace`")
	return withStore(ctx, fs, flags, args, func(n *imageStore) error {
		a, err := o.open(ctx, fs.Args())
		if err != nil {
			return err
		}
		defer a.Close() //nolint:errcheck // it was only read
		images, err := o.choose(a)
		if err != nil {
			return err
		}
		return each(images, func(what image.Import) error {
			bars := newBars(os.Stderr)
			img, err := n.importImage(ctx, what, a, bars.report)
			bars.close()
			if err != nil {
				return fmt.Errorf("import %s: %w", strings.Join(what.Names, " "), err)
			}
			_, err = fmt.Fprintln(out, "imported", strings.Join(what.Names, " "), img.ID)
			return err
		})
	})
}

func (o *importOptions) open(ctx context.Context, args []string) (*archive.Archive, error) {
	switch {
	case o.containerd != "" && len(args) == 0:
		return archive.OpenContainerd(o.containerd, o.namespace)
	case o.containerd != "" || len(args) != 1:
		return nil, errors.New("usage: cricket image import [flags] FILE|DIRECTORY|-, or cricket image import --from-containerd DIRECTORY")
	case args[0] == "-":
		return archive.Read(ctx, os.Stdin)
	}
	return archive.Open(ctx, args[0])
}

// choose decides which images to import and what they are called.
func (o *importOptions) choose(a *archive.Archive) ([]image.Import, error) {
	list := a.Images()
	if len(o.names) > 0 && len(list) != 1 {
		return nil, fmt.Errorf("--name is for one image, and there are %d", len(list))
	}
	var chosen []image.Import
	for _, i := range list {
		if len(o.names) > 0 {
			i.Names = o.names
		}
		if len(i.Names) == 0 {
			if o.containerd != "" {
				continue // an image that lost its names, which nobody can ask for
			}
			return nil, fmt.Errorf("the image %s has no name in the archive: give it one with --name", i.Target.Digest)
		}
		i.Platform = o.platform
		i.Pinned = i.Pinned || o.pin
		chosen = append(chosen, i)
	}
	if len(chosen) == 0 {
		return nil, errors.New("there is no image to import")
	}
	return chosen, nil
}
