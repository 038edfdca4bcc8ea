package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/cricket-cri/cricket/runtime/image"
	"github.com/cricket-cri/cricket/runtime/image/archive"
)

func imageExport(ctx context.Context, args []string, out io.Writer) error {
	fs, flags := imageFlags("image export")
	file := fs.String("output", "-", "the tar's `file`; - for standard output")
	dir := fs.String("directory", "", "write a `directory` instead of a tar")
	plain := fs.Bool("uncompressed", false, "leave layers uncompressed")
	return withStore(ctx, fs, flags, args, func(n *imageStore) error {
		images, err := n.exported(fs.Args())
		if err != nil {
			return err
		}
		bars := newBars(os.Stderr)
		defer bars.close()
		e := archive.Exporter{Tar: n.blobs().WriteTar, Plain: *plain, Report: func(id digest.Digest, done int64, whole bool) {
			bars.report(image.LayerProgress{Layer: id, Done: done, Stored: whole})
		}}
		switch {
		case *dir != "":
			return e.ToDirectory(ctx, *dir, images)
		case *file != "-":
			return exportFile(ctx, e, *file, images)
		case isTerminal(out):
			return errors.New("a terminal shows no tar: name a file with --output")
		}
		return e.ToTar(ctx, out, images)
	})
}

// exported finds images by their names, each once.
func (n *imageStore) exported(refs []string) ([]archive.Exported, error) {
	if len(refs) == 0 {
		return nil, errors.New("no image is named; `cricket image export -h` says how")
	}
	images, _, err := n.records().List()
	if err != nil {
		return nil, err
	}
	var list []archive.Exported
	seen := map[digest.Digest]bool{}
	for _, ref := range refs {
		img, err := image.Find(images, ref)
		if err != nil {
			return nil, err
		}
		if seen[img.ID] {
			continue
		}
		seen[img.ID] = true
		kept, err := n.records().Documents(img.ID)
		if err != nil {
			return nil, err
		}
		list = append(list, archive.Exported{ID: img.ID, Names: img.RepoTags, Documents: kept, Layers: img.Layers})
	}
	return list, nil
}

// exportFile makes the file whole or not at all. The name it has until then is nobody's: no
// other export's, and no link that somebody has put there for root to follow.
func exportFile(ctx context.Context, e archive.Exporter, path string, images []archive.Exported) error {
	temp := path + "." + rand.Text() + ".part"
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644) // os.CreateTemp would not heed the umask
	if err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	err = e.ToTar(ctx, f, images)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		os.Remove(temp)
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}
