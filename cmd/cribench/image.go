package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cmd/cribench/figures"
)

const (
	// spaceTime is how long the space of a removed image is waited for.
	spaceTime = 10 * time.Second
	// spaceStep is how often it is looked for.
	spaceStep = 2 * time.Millisecond
	// spaceShare of what a pull took has to come back: others write meanwhile.
	spaceShare = 0.8
	// spaceLeast is how much a pull has to take, in bytes, for its space to be seen among
	// what others write.
	spaceLeast = 64 * mebi
)

// measureImage pulls and removes an image again and again.
func measureImage(ctx context.Context, s *session) error {
	return s.turns(ctx, s.o.repeat, func(b *bench, _ int) error { return b.image(ctx) })
}

func (b *bench) image(ctx context.Context) error {
	there, err := b.hasImage(ctx, b.o.pullImage)
	if err != nil {
		return err
	}
	if there {
		return fmt.Errorf("image %s is there already, and not this program's to remove", b.o.pullImage)
	}
	before, known := b.free(ctx)
	cpu, err := cpuOf(b.endpoint.processes)
	if err != nil {
		return err
	}
	m := b.meter("image")
	spec := &cri.ImageSpec{Image: b.o.pullImage}
	err = m.timed("PullImage", func() error { return b.pull(ctx, b.o.pullImage) })
	if err != nil {
		return err
	}
	if len(b.endpoint.processes) > 0 {
		after, err := cpuOf(b.endpoint.processes)
		if err != nil {
			return err
		}
		b.result.Add(m.section, "processor time of a pull", figures.Seconds, (after - cpu).Seconds())
	}
	pulled, _ := b.free(ctx)
	began := time.Now()
	err = m.timed("RemoveImage", func() error {
		_, err := b.images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: spec})
		return err
	})
	if err != nil {
		return err
	}
	b.pulled = b.pulled[:len(b.pulled)-1]
	took := float64(before) - float64(pulled)
	if !known || took < spaceLeast {
		return nil
	}
	b.result.Add(m.section, "space that a pull took", figures.MiB, took/mebi)
	if err := b.spaceIsBack(ctx, float64(pulled)+spaceShare*took); err != nil {
		return err
	}
	b.result.AddTime(m.section, "RemoveImage until the space is free", time.Since(began))
	return nil
}

// spaceIsBack waits until so much is free.
func (b *bench) spaceIsBack(ctx context.Context, want float64) error {
	for began := time.Now(); time.Since(began) < spaceTime; {
		if free, _ := b.free(ctx); float64(free) >= want {
			return nil
		}
		if err := pause(ctx, spaceStep); err != nil {
			return err
		}
	}
	return errors.New("the space of a removed image does not come back")
}

// free is how much space the file system of the images has left; not known if the runtime
// does not tell which it is, or is on another machine.
func (b *bench) free(ctx context.Context) (bytes uint64, known bool) {
	r, err := b.images.ImageFsInfo(ctx, &cri.ImageFsInfoRequest{})
	if err != nil || len(r.GetImageFilesystems()) == 0 {
		return 0, false
	}
	var st unix.Statfs_t
	if err := unix.Statfs(r.GetImageFilesystems()[0].GetFsId().GetMountpoint(), &st); err != nil {
		return 0, false
	}
	return st.Bfree * uint64(st.Bsize), true
}
