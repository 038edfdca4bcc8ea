package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/cricket-cri/cricket/runtime/image"
)

// verify reads everything in the image store from the disk and compares it with what was
// written.
func verify(ctx context.Context, args []string, out io.Writer) error {
	fs, flags := imageFlags("verify")
	repair := fs.Bool("repair", false, "remove what is damaged, so that it is pulled again; containers that run keep it")
	asJSON := fs.Bool("json", false, "print JSON")
	return withStore(ctx, fs, flags, args, func(n *imageStore) error {
		a := &audit{store: n}
		if err := a.run(ctx); err != nil {
			return err
		}
		if *repair {
			a.repair(ctx)
		}
		if *asJSON {
			if err := encodeJSON(out, a.report); err != nil {
				return err
			}
		} else {
			a.print(out, *repair)
		}
		for _, d := range a.report.Damage {
			if !d.Repaired {
				return errQuiet
			}
		}
		return nil
	})
}

// audit is one examination of the store.
type audit struct {
	store  *imageStore
	images []image.Image
	report auditReport
}

type auditReport struct {
	Images int   `json:"images"`
	Layers int   `json:"layers"`
	Bytes  int64 `json:"bytes"`
	// Unsealed layers were made by a version that noted no digest: of those only the
	// structure was checked.
	Unsealed int `json:"unsealed"`
	// Kernel counts layers whose every read the kernel checks.
	Kernel int `json:"fsVerity"`
	// Unused layers belong to no image: to a pull that is under way, or to be collected.
	Unused int        `json:"unused"`
	Damage []*damaged `json:"damage"`
}

// damaged is one thing that is not as it was written.
type damaged struct {
	What     string   `json:"what"`
	Reason   string   `json:"reason"`
	Images   []string `json:"images,omitempty"` // that need it
	Repaired bool     `json:"repaired"`
	Trouble  string   `json:"trouble,omitempty"` // why it is not

	fix func(context.Context) error
}

func (a *audit) run(ctx context.Context) error {
	images, records, err := a.store.records().List()
	if err != nil {
		return err
	}
	a.images, a.report.Images = images, len(images)
	for _, d := range records {
		a.report.Damage = append(a.report.Damage, &damaged{
			What: "record " + filepath.Base(d.File), Reason: d.Err.Error(),
			fix: func(ctx context.Context) error { return a.dropRecord(ctx, d.File) },
		})
	}
	present, err := a.store.blobs().List()
	if err != nil {
		return err
	}
	needed := map[digest.Digest]bool{}
	for _, i := range images {
		for _, l := range i.Layers {
			needed[l] = true
			if !slices.Contains(present, l) {
				present = append(present, l)
			}
		}
	}
	for _, id := range present {
		if err := a.layer(ctx, id, needed[id]); err != nil {
			return err
		}
	}
	return a.merged(ctx)
}

func (a *audit) layer(ctx context.Context, id digest.Digest, needed bool) error {
	v, err := a.store.blobs().Verify(ctx, id)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errdefs.IsNotFound(err) && !a.stillNeeded(id) {
		return nil // removed meanwhile
	}
	a.report.Layers++
	a.report.Bytes += v.Bytes
	if !needed {
		a.report.Unused++
	}
	if err != nil {
		names := a.users(id)
		a.report.Damage = append(a.report.Damage, &damaged{
			What: "layer " + id.String(), Reason: err.Error(), Images: names,
			fix: func(ctx context.Context) error { return a.dropUsers(ctx, id) },
		})
		return nil
	}
	if !v.Sealed {
		a.report.Unsealed++
	}
	if v.Kernel {
		a.report.Kernel++
	}
	return nil
}

// stillNeeded looks again whether an image has the layer.
func (a *audit) stillNeeded(id digest.Digest) bool {
	images, _, err := a.store.records().List()
	return err != nil || slices.ContainsFunc(images, func(i image.Image) bool { return slices.Contains(i.Layers, id) })
}

func (a *audit) users(id digest.Digest) (names []string) {
	for _, i := range a.images {
		if slices.Contains(i.Layers, id) {
			names = append(names, append(slices.Clone(i.RepoTags), i.ID.String())[0])
		}
	}
	return names
}

func (a *audit) merged(ctx context.Context) error {
	files, err := a.store.blobs().Merged()
	if err != nil {
		return err
	}
	for _, f := range files {
		v, err := a.store.blobs().VerifyMerged(ctx, f)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errdefs.IsNotFound(err): // removed meanwhile
		case err != nil:
			a.report.Damage = append(a.report.Damage, &damaged{
				What: "merged metadata " + filepath.Base(f), Reason: err.Error(),
				fix: func(context.Context) error { return gone(f) }, // made again when it is asked for
			})
		default:
			a.report.Bytes += v.Bytes
		}
	}
	return nil
}

func (a *audit) repair(ctx context.Context) {
	for _, d := range a.report.Damage {
		if err := d.fix(ctx); err != nil {
			d.Trouble = err.Error()
			continue
		}
		d.Repaired = true
	}
}

// dropUsers removes the images that have a layer, and the layer with them: a layer that
// an image keeps would be taken for sound by the next pull.
func (a *audit) dropUsers(ctx context.Context, id digest.Digest) error {
	var errs []error
	for _, i := range a.images {
		if slices.Contains(i.Layers, id) {
			errs = append(errs, a.store.remove(ctx, i.ID.String()))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if len(a.users(id)) == 0 { // nobody's: any removal sweeps
		if err := a.store.remove(ctx, id.String()); err != nil {
			return err
		}
	}
	if f, _, err := a.store.blobs().Open(id); err == nil {
		f.Close()
		return fmt.Errorf("the layer is still there: %w", errdefs.ErrUnavailable)
	}
	return nil
}

// dropRecord removes an image by its record's name, for the daemon may know the image
// still, and what is left of the record. A record that was set aside goes alone where the
// image has come again since.
func (a *audit) dropRecord(ctx context.Context, file string) error {
	hex, _, _ := strings.Cut(filepath.Base(file), ".")
	id := digest.NewDigestFromEncoded(digest.SHA256, hex)
	current, aside := strings.CutSuffix(file, ".bad")
	if aside {
		if _, err := a.store.records().Documents(id); err == nil {
			return gone(file)
		}
	}
	if err := a.store.remove(ctx, id.String()); err != nil {
		return err
	}
	return errors.Join(gone(current), gone(current+".bad"))
}

func gone(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}

func (a *audit) print(out io.Writer, repaired bool) {
	for _, d := range a.report.Damage {
		fmt.Fprintf(out, "DAMAGED  %s\n         %s\n", d.What, d.Reason)
		if len(d.Images) > 0 {
			fmt.Fprintf(out, "         needed by %s\n", strings.Join(d.Images, ", "))
		}
		switch {
		case d.Repaired:
			fmt.Fprintln(out, "         removed; the kubelet pulls it again, or import it again")
		case d.Trouble != "":
			fmt.Fprintln(out, "         not removed: "+d.Trouble)
		case !repaired:
			fmt.Fprintln(out, "         to do: cricket verify --repair, and look at the disk (smartctl, dmesg)")
		}
	}
	fmt.Fprintf(out, "%d images, %d layers, %s read", a.report.Images, a.report.Layers, bytesText(a.report.Bytes))
	if a.report.Kernel > 0 {
		fmt.Fprintf(out, "; %d layers are checked by the kernel at every read (fs-verity)", a.report.Kernel)
	}
	if a.report.Unsealed > 0 {
		fmt.Fprintf(out, "; %d layers without a digest, of which only the structure was checked", a.report.Unsealed)
	}
	if a.report.Unused > 0 {
		fmt.Fprintf(out, "; %d layers of no image", a.report.Unused)
	}
	if len(a.report.Damage) == 0 {
		fmt.Fprint(out, ": all well")
	}
	fmt.Fprintln(out)
}
