package image

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// TestDownloadsAreBounded has many pulls of two registries at once.
func TestDownloadsAreBounded(t *testing.T) {
	for name, c := range map[string]struct{ pull, registry, total, one, all int }{
		"per pull":     {2, 100, 100, 8, 16},
		"per registry": {3, 3, 100, 3, 6},
		"altogether":   {3, 3, 4, 3, 4},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKit(t, func(o *Options) { o.Parallel, o.PerRegistry, o.Total = c.pull, c.registry, c.total })
			var mu sync.Mutex
			open, most := map[int]int{}, map[int]int{} // by registry; -1 is all
			count := func(hub, n int) {
				mu.Lock()
				defer mu.Unlock()
				for _, i := range []int{hub, -1} {
					open[i] += n
					most[i] = max(most[i], open[i])
				}
			}
			var group sync.WaitGroup
			for i := range 2 {
				h := newHub(t)
				h.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
					if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && r.Header.Get("Accept") != "" && !strings.Contains(r.Header.Get("Accept"), "config") {
						count(i, 1)
						time.Sleep(300 * time.Millisecond)
						count(i, -1)
					}
					return false
				})
				for p := range 4 {
					repo := "app" + strconv.Itoa(p)
					var layers []layer
					for l := range 4 {
						layers = append(layers, gzipped(fmt.Sprint(i, p, l)))
					}
					h.push(repo, "v1", nil, layers...)
					group.Go(func() { k.mustPull(t, h.host+"/"+repo+":v1") })
				}
			}
			group.Wait()
			if most[0] > c.one || most[1] > c.one || most[-1] > c.all {
				t.Errorf("at most %v layers came at once, want %d of one registry and %d altogether", most, c.one, c.all)
			}
			if most[-1] < min(c.all, 4) {
				t.Errorf("only %v layers came at once", most)
			}
			if len(k.slots.lanes) != 0 {
				t.Errorf("%d registries are held on to", len(k.slots.lanes))
			}
		})
	}
}

// A registry that does not get on takes no slot from another one.
func TestSlowRegistryBlocksNoOther(t *testing.T) {
	slow, h := newHub(t), newHub(t)
	k := newKit(t, func(o *Options) { o.PerRegistry, o.Total = 1, 2 })
	a, b := gzipped("a"), gzipped("b")
	slow.push("app", "v1", nil, a, b)
	h.push("app", "v1", nil, gzipped("one"), gzipped("two"))
	g := slow.gate(a)
	done := make(chan error, 1)
	go func() { _, err := k.Pull(t.Context(), slow.host+"/app:v1", nil); done <- err }()
	<-g.arrived
	k.mustPull(t, h.host+"/app:v1")
	close(g.open)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestProgress looks at a pull in its middle and after its end.
func TestProgress(t *testing.T) {
	var log bytes.Buffer
	var mu sync.Mutex
	h, k := newHub(t), newKit(t, func(o *Options) {
		o.Log = slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(p)
		}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	known, l := gzipped("known"), gzipped(noise(1<<20))
	h.push("base", "v1", nil, known)
	p := h.push("app", "v1", nil, known, l)
	k.mustPull(t, h.host+"/base:v1")
	const half = 200_000
	arrived, open := make(chan struct{}), make(chan struct{})
	h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r, l) {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(l.blob)))
		w.Write(l.blob[:half])
		w.(http.Flusher).Flush()
		close(arrived)
		<-open
		w.Write(l.blob[half:])
		return true
	})
	done := make(chan error, 1)
	go func() { _, err := k.Pull(t.Context(), h.host+"/app:v1", nil); done <- err }()
	<-arrived
	var at Progress
	for range 600 {
		if st := k.Status(); len(st.Pulls) == 1 {
			if at = st.Pulls[0]; at.Fetched == half {
				break
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	if want := (Progress{Name: h.host + "/app:v1", From: at.From, Fetched: half, Total: p.doc.Layers[1].Size, Layers: 1}); at != want || at.From.IsZero() {
		t.Errorf("progress = %+v, want %+v", at, want)
	}
	logged := func() string { mu.Lock(); defer mu.Unlock(); return log.String() }
	for range 200 { // one line every reportEvery
		if strings.Contains(logged(), "pull gets on") {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if want := fmt.Sprintf("bytes=%d of=%d layers=0 of_layers=1", half, len(l.blob)); !strings.Contains(logged(), want) {
		t.Errorf("the log has no line with %q", want)
	}
	close(open)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := k.Pull(t.Context(), h.host+"/absent:v1", nil); !errdefs.IsNotFound(err) {
		t.Fatal(err)
	}
	st := k.Status()
	if len(st.Pulls) != 0 || st.Ended["ok"] != 2 || st.Ended["not_found"] != 1 || st.Bytes < uint64(len(l.blob)) || st.Bytes > uint64(len(l.blob))+100_000 {
		t.Errorf("status = %+v", st)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestForeignLayersAreRefused covers every type of layer that registries do not have,
// and names both type and layer.
func TestForeignLayersAreRefused(t *testing.T) {
	for _, mediaType := range []string{
		"application/vnd.docker.image.rootfs.foreign.diff.tar",
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
	} {
		h, k := newHub(t), newKit(t, nil)
		l := gzipped("two")
		l.mediaType = mediaType
		h.push("app", "v1", nil, gzipped("one"), l)
		_, err := k.Pull(t.Context(), h.host+"/app:v1", nil)
		if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "layer 2") || !strings.Contains(err.Error(), mediaType) || !strings.Contains(err.Error(), "not distributable") {
			t.Errorf("error = %v", err)
		}
		if got := h.fetched(); len(got) > 1 { // the configuration
			t.Errorf("%s: blobs %v were fetched", mediaType, got)
		}
		k.wantEmpty(t)
	}
}

// TestSchema1IsRefused covers what registries have of old images.
func TestSchema1IsRefused(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	h.manifest("app", "v1", dockerSchema1JW, map[string]any{"schemaVersion": 1, "fsLayers": []string{}})
	if _, err := k.Pull(t.Context(), h.host+"/app:v1", nil); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "schema 1") {
		t.Errorf("error = %v", err)
	}
	k.wantEmpty(t)
}
