package image

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// gate stops requests for a layer until it is opened, and counts who arrived.
type gate struct {
	arrived chan struct{}
	open    chan struct{}
	count   atomic.Int64
}

func (h *hub) gate(l layer) *gate {
	g := &gate{arrived: make(chan struct{}, 100), open: make(chan struct{})}
	h.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		if isBlob(r, l) {
			g.count.Add(1)
			g.arrived <- struct{}{}
			select {
			case <-g.open:
			case <-r.Context().Done():
				return true
			}
		}
		return false
	})
	return g
}

// waiting counts the callers who wait for pulls.
func (k *kit) waiting() (n int) {
	k.calls.mu.Lock()
	defer k.calls.mu.Unlock()
	for _, c := range k.calls.open {
		n += c.waiting
	}
	return n
}

func (k *kit) await(t *testing.T, n int) {
	t.Helper()
	for range 5000 {
		if k.waiting() == n {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%d callers wait, want %d", k.waiting(), n)
}

func TestPullsAreJoined(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	l := gzipped("one")
	p := h.push("app", "v1", nil, l)
	g := h.gate(l)
	var group sync.WaitGroup
	for _, ref := range []string{"/app:v1", "/app:v1", "/app:v1"} {
		group.Go(func() {
			if img, err := k.Pull(t.Context(), h.host+ref, nil); err != nil || img.ID != p.id {
				t.Errorf("pull = %v, %v", img.ID, err)
			}
		})
	}
	k.await(t, 3)
	if n := len(k.calls.open); n != 1 {
		t.Errorf("%d pulls are under way, want one", n)
	}
	close(g.open)
	group.Wait()
	if n := g.count.Load(); n != 1 {
		t.Errorf("the layer was fetched %d times", n)
	}
}

func TestPullsWithOtherCredentialsAreNotJoined(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	l := gzipped("one")
	h.push("app", "v1", nil, l)
	g := h.gate(l)
	inner := h.before
	h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != basic("me", "secret") {
			w.Header().Set("WWW-Authenticate", `Basic realm="hub"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		return inner(w, r)
	})
	done := make(chan error, 1)
	go func() {
		_, err := k.Pull(t.Context(), h.host+"/app:v1", &Auth{Username: "me", Password: "secret"})
		done <- err
	}()
	<-g.arrived
	for _, auth := range []*Auth{nil, {Username: "me", Password: "guess"}} {
		if _, err := k.Pull(t.Context(), h.host+"/app:v1", auth); !errdefs.IsUnauthorized(err) {
			t.Errorf("error = %v, want unauthenticated", err)
		}
	}
	close(g.open)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Two images share a layer: whoever comes second waits and fetches it only if the first
// fails.
func TestSharedLayerIsFetchedOnce(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	l := gzipped("shared")
	h.push("a", "v1", nil, l)
	h.push("b", "v1", nil, l, gzipped("more"))
	g := h.gate(l)
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { _, err := k.Pull(ctx, h.host+"/a:v1", nil); first <- err }()
	<-g.arrived
	go func() { _, err := k.Pull(t.Context(), h.host+"/b:v1", nil); second <- err }()
	k.await(t, 2)
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("first = %v, want cancelled", err)
	}
	<-g.arrived
	close(g.open)
	if err := <-second; err != nil {
		t.Errorf("second = %v", err)
	}
	if l := k.List(); len(l) != 1 || len(k.layers.List()) != 2 {
		t.Errorf("images = %v, layers = %v", l, k.layers.List())
	}
}

func TestCancelledCallerLeavesThePull(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	l := gzipped("one")
	h.push("app", "v1", nil, l)
	g := h.gate(l)
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { _, err := k.Pull(ctx, h.host+"/app:v1", nil); first <- err }()
	<-g.arrived
	go func() { _, err := k.Pull(t.Context(), h.host+"/app:v1", nil); second <- err }()
	k.await(t, 2)
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("first = %v, want cancelled", err)
	}
	close(g.open)
	if err := <-second; err != nil {
		t.Errorf("second = %v", err)
	}
}

func TestCancelledPullLeavesNothing(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	l := gzipped("late")
	h.push("app", "v1", nil, gzipped("early"), l)
	for range 3 {
		g := h.gate(l)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { _, err := k.Pull(ctx, h.host+"/app:v1", nil); done <- err }()
		<-g.arrived
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v, want cancelled", err)
		}
		k.wantEmpty(t)
	}
}

// A failed pull must not take the layers of one that goes on.
func TestFailedPullSparesOthers(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	base, good, bad := gzipped("base"), gzipped("good"), gzipped("bad")
	h.push("good", "v1", nil, base, good)
	h.push("bad", "v1", nil, base, bad)
	g := h.gate(good)
	inner := h.before
	h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if isBlob(r, bad) {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return inner(w, r)
	})
	done := make(chan error, 1)
	go func() { _, err := k.Pull(t.Context(), h.host+"/good:v1", nil); done <- err }()
	<-g.arrived
	if _, err := k.Pull(t.Context(), h.host+"/bad:v1", nil); err == nil || !strings.Contains(err.Error(), "fetch layers") {
		t.Errorf("bad = %v, want an error with its stage", err)
	}
	close(g.open)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := len(k.layers.List()); n != 2 {
		t.Errorf("%d layers, want two", n)
	}
}
