package volume

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"
)

const (
	// mirrorBudget bounds bringing one volume up to date.
	mirrorBudget = 30 * time.Second
	// What fails is tried again after firstRetry, then twice as long, up to lastRetry.
	firstRetry = 200 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// follower is the goroutine that brings changed volumes to the guest.
type follower struct {
	mu      sync.Mutex
	changed map[string]bool // keys of volumes
	wake    chan struct{}
	started bool
	ended   sync.WaitGroup
}

func (f *follower) init() {
	f.changed = map[string]bool{}
	f.wake = make(chan struct{}, 1)
}

func (f *follower) wait() {
	f.ended.Wait()
}

func (f *follower) note(keys ...string) {
	f.mu.Lock()
	for _, key := range keys {
		f.changed[key] = true
	}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *follower) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	keys := make([]string, 0, len(f.changed))
	for key := range f.changed {
		keys = append(keys, key)
	}
	clear(f.changed)
	return keys
}

// watchVolume tells the follower of changes of a volume's source, if that is not so yet. The
// lock is held.
func (s *Set) watchVolume(v *volume, key string) error {
	s.startFollowing()
	if v.watched {
		return nil
	}
	mask := uint32(watchDir)
	if v.Kind == kindFile {
		mask = watchFile
	}
	wd, err := s.opts.Watcher.add(subject{&s.follow, key}, v.Source, mask)
	if err != nil {
		return err
	}
	v.wd, v.watched = wd, true
	return nil
}

func (s *Set) unwatch(v *volume, key string) {
	if v.watched {
		s.opts.Watcher.remove(v.wd, subject{&s.follow, key})
		v.watched = false
	}
}

func (s *Set) startFollowing() {
	if !s.follow.started {
		s.follow.started = true
		s.follow.ended.Go(s.followChanges) // until the Set ends
	}
}

func (s *Set) followChanges() {
	retry, wait := time.NewTimer(time.Hour), firstRetry
	defer retry.Stop()
	for {
		select {
		case <-s.alive.Done():
			return
		case <-s.follow.wake:
		case <-retry.C:
		}
		failed := s.bringUpToDate(s.follow.take())
		if len(failed) == 0 {
			wait = firstRetry
			continue
		}
		s.follow.mu.Lock()
		for _, key := range failed {
			s.follow.changed[key] = true
		}
		s.follow.mu.Unlock()
		retry.Reset(wait)
		wait = min(2*wait, lastRetry)
	}
}

// bringUpToDate mirrors volumes anew and returns those that are to be tried again.
func (s *Set) bringUpToDate(keys []string) (failed []string) {
	for _, key := range keys {
		if !s.mirrorAgain(key) {
			failed = append(failed, key)
		}
	}
	return failed
}

func (s *Set) mirrorAgain(key string) bool {
	ctx, cancel := context.WithTimeout(s.alive, mirrorBudget)
	defer cancel()
	ctx, release, err := s.acquire(ctx)
	if err != nil {
		return false
	}
	v := s.state.Volumes[key]
	if v == nil || s.alive.Err() != nil {
		release()
		return true
	}
	watchErr := s.watchVolume(v, key) // what could not be watched is tried again
	err = s.mirror(ctx, v)
	release()
	if err == nil && s.opts.Changed != nil {
		s.opts.Changed()
	}
	if err == nil {
		err = watchErr
	}
	switch {
	case err == nil:
	case errors.Is(err, os.ErrNotExist):
		// The kubelet is removing the volume: the guest keeps what it has.
	case errors.Is(err, errNotMirrored):
		s.opts.Log.Warn("volume cannot be mirrored any more, the guest keeps what it has", "source", v.Source, "error", err)
	default:
		s.opts.Log.Warn("volume is not up to date in the guest, or not followed", "source", v.Source, "error", err)
		return false
	}
	return true
}
