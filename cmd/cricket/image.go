package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/cricket-cri/cricket/cri/config"
	"github.com/cricket-cri/cricket/runtime/image"
)

// imageFlags are those that all image commands have: the daemon's.
func imageFlags(name string) (*flag.FlagSet, *config.Flags) {
	fs := flag.NewFlagSet("cricket "+name, flag.ContinueOnError)
	return fs, config.Bind(fs)
}

// withStore parses flags and reaches the store.
func withStore(ctx context.Context, fs *flag.FlagSet, flags *config.Flags, args []string, do func(*imageStore) error) error {
	if err := fs.Parse(args); err != nil {
		return err
	}
	c, err := flags.Config()
	if err != nil {
		return err
	}
	n, err := reach(ctx, c)
	if err != nil {
		return err
	}
	defer n.close()
	return do(n)
}

func imageList(ctx context.Context, args []string, out io.Writer) error {
	fs, flags := imageFlags("image ls")
	asJSON := fs.Bool("json", false, "print JSON")
	return withStore(ctx, fs, flags, args, func(n *imageStore) error {
		images, damaged, err := n.records().List()
		if err != nil {
			return err
		}
		for _, d := range damaged {
			fmt.Fprintf(os.Stderr, "cricket: %s: %v (see cricket verify)\n", d.File, d.Err)
		}
		if *asJSON {
			return printImages(out, images)
		}
		return tableImages(out, images)
	})
}

// listed is an image as `image ls --json` shows it.
type listed struct {
	ID      string    `json:"id"`
	Names   []string  `json:"names"`
	Digests []string  `json:"digests"`
	Size    uint64    `json:"size"`
	Layers  int       `json:"layers"`
	Pinned  bool      `json:"pinned"`
	Since   time.Time `json:"since"`
	// Artifact is the type of what is no image, but an artifact.
	Artifact string `json:"artifactType,omitempty"`
}

func printImages(out io.Writer, images []image.Image) error {
	list := make([]listed, 0, len(images))
	for _, i := range images {
		list = append(list, listed{i.ID.String(), i.RepoTags, i.RepoDigests, i.Size, len(i.Layers), i.Pinned, i.PulledAt, i.Artifact})
	}
	return encodeJSON(out, list)
}

func tableImages(out io.Writer, images []image.Image) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tSIZE\tPINNED\tSINCE")
	for _, i := range images {
		names := i.RepoTags
		if len(names) == 0 {
			names = i.RepoDigests
		}
		if len(names) == 0 {
			names = []string{"<none>"}
		}
		pin := ""
		if i.Pinned {
			pin = "pinned"
		}
		for _, name := range names {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", name, i.ID.Encoded()[:12], bytesText(int64(i.Size)), pin, i.PulledAt.Local().Format("2006-01-02 15:04"))
		}
	}
	return w.Flush()
}

func imageRemove(ctx context.Context, args []string, out io.Writer) error {
	fs, flags := imageFlags("image rm")
	return withStore(ctx, fs, flags, args, func(n *imageStore) error {
		if fs.NArg() == 0 {
			return errors.New("no image is named; `cricket image rm -h` says how")
		}
		return each(fs.Args(), func(ref string) error {
			images, _, err := n.records().List()
			if err != nil {
				return err
			}
			img, err := image.Find(images, ref)
			if err != nil {
				return err
			}
			if err := n.remove(ctx, img.ID.String()); err != nil {
				return fmt.Errorf("remove %s: %w", ref, err)
			}
			_, err = fmt.Fprintln(out, "removed", strings.Join(append([]string{img.ID.String()}, img.RepoTags...), " "))
			return err
		})
	})
}

func imagePrefetch(ctx context.Context, args []string, out io.Writer) error {
	fs, flags := imageFlags("image prefetch")
	return withStore(ctx, fs, flags, args, func(n *imageStore) error {
		refs := fs.Args()
		if len(refs) == 0 {
			refs = n.config.Images.Prefetch
		}
		if len(refs) == 0 {
			return errors.New("no image is named, neither here nor by images.prefetch")
		}
		return each(refs, func(ref string) error {
			bars := newBars(os.Stderr)
			img, err := n.prefetch(ctx, ref, bars.report)
			bars.close()
			if err != nil {
				return fmt.Errorf("prefetch %s: %w", ref, err)
			}
			_, err = fmt.Fprintln(out, "prefetched", ref, img.ID)
			return err
		})
	})
}

// each does it for all, and tells of every failure.
func each[T any](list []T, do func(T) error) error {
	var errs []error
	for _, e := range list {
		errs = append(errs, do(e))
	}
	return errors.Join(errs...)
}

// nameList is a flag that may be given several times.
type nameList []string

func (n *nameList) String() string { return strings.Join(*n, ",") }

// Set implements flag.Value.
func (n *nameList) Set(v string) error {
	if !slices.Contains(*n, v) {
		*n = append(*n, v)
	}
	return nil
}
