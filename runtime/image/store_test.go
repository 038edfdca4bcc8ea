package image

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestRemoveByAnyForm(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	p := h.push("app", "v1", nil, gzipped("one"))
	h.push("app", "v2", nil, gzipped("one"))
	id := p.id.String()
	for _, ref := range []string{h.host + "/app:v1", h.host + "/app@" + p.manifest.Digest.String(), id, id[7:], id[7:19]} {
		k.mustPull(t, h.host+"/app:v1")
		k.mustPull(t, h.host+"/app:v2")
		for range 2 {
			if err := k.Remove(t.Context(), ref); err != nil {
				t.Errorf("remove %s: %v", ref, err)
			}
		}
		if _, err := k.Get(h.host + "/app:v2"); !errdefs.IsNotFound(err) {
			t.Errorf("removed by %s, the other tag is there still: %v", ref, err)
		}
		k.wantEmpty(t)
	}
	for _, ref := range []string{"", "absent", "no such name", digest.FromString("x").String()} {
		if err := k.Remove(t.Context(), ref); err != nil {
			t.Errorf("remove %q: %v", ref, err)
		}
	}
}

func TestRemoveKeepsSharedLayers(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	base := gzipped("base")
	h.push("a", "v1", nil, base, gzipped("a"))
	h.push("b", "v1", nil, base, gzipped("b"))
	k.mustPull(t, h.host+"/a:v1")
	k.mustPull(t, h.host+"/b:v1")
	k.Remove(t.Context(), h.host+"/a:v1")
	if n := len(k.layers.List()); n != 2 || !k.layers.Has(base.diffID()) {
		t.Errorf("%d layers are left, want the two of the other image", n)
	}
	k.Remove(t.Context(), h.host+"/b:v1")
	k.wantEmpty(t)
}

func TestPullAndRemoveAtOnce(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	h.push("a", "v1", nil, gzipped("base"), gzipped("a"))
	h.push("b", "v1", nil, gzipped("base"), gzipped("b"))
	var group sync.WaitGroup
	for _, ref := range []string{"/a:v1", "/b:v1", "/a:v1", "/b:v1"} {
		group.Go(func() {
			for range 30 {
				k.mustPull(t, h.host+ref)
				if err := k.Remove(t.Context(), h.host+ref); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	for _, img := range k.List() {
		for _, l := range img.Layers {
			if !k.layers.Has(l) {
				t.Errorf("image %v lacks a layer", img.RepoTags)
			}
		}
	}
	k.wantEmpty(t)
}

func TestRestart(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	h.push("a", "v1", nil, gzipped("a"))
	b := h.push("b", "v1", nil, gzipped("b"))
	k.mustPull(t, h.host+"/a:v1")
	k.mustPull(t, h.host+"/b:v1@"+b.manifest.Digest.String())
	before := k.List()
	orphan := plain("orphan")
	k.layers.layers[orphan.diffID()] = orphan.tar
	temp := filepath.Join(k.opts.Root, "half.json.tmp")
	os.WriteFile(temp, []byte("{"), 0o600)
	k.reopen(t)
	if after := k.List(); !reflect.DeepEqual(after, before) {
		t.Errorf("images = %+v, want %+v", after, before)
	}
	if k.layers.Has(orphan.diffID()) {
		t.Error("a layer without image is left")
	}
	if _, err := os.Stat(temp); err == nil {
		t.Error("a file of a write that did not end is left")
	}
}

func TestDamagedRecords(t *testing.T) {
	for name, damage := range map[string]func(raw []byte) []byte{
		"torn":    func(raw []byte) []byte { return raw[:len(raw)/2] },
		"empty":   func([]byte) []byte { return nil },
		"foreign": func(raw []byte) []byte { return []byte(strings.Replace(string(raw), `"version":1`, `"version":7`, 1)) },
		"other id": func(raw []byte) []byte {
			return []byte(strings.Replace(string(raw), `"id":"sha256:`, `"id":"sha256:0`, 1))
		},
		"config": func(raw []byte) []byte {
			var r record
			json.Unmarshal(raw, &r)
			r.Config = []byte(strings.Replace(string(r.Config), "IMAGE=b", "IMAGE=c", 1))
			raw, _ = json.Marshal(r)
			return raw
		},
		"layers": func(raw []byte) []byte {
			var r record
			json.Unmarshal(raw, &r)
			r.DiffIDs = nil
			raw, _ = json.Marshal(r)
			return raw
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, k := newHub(t), newKit(t, nil)
			h.push("a", "v1", nil, gzipped("a"))
			h.push("b", "v1", nil, gzipped("b"))
			k.mustPull(t, h.host+"/a:v1")
			img := k.mustPull(t, h.host+"/b:v1")
			path := filepath.Join(k.opts.Root, img.ID.Encoded()+".json")
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			os.WriteFile(path, damage(raw), 0o600)
			k.reopen(t)
			if l := k.List(); len(l) != 1 || len(k.layers.List()) != 1 {
				t.Errorf("images = %v, want the good one alone", l)
			}
			k.mustPull(t, h.host+"/b:v1")
		})
	}
}

func TestImageWithoutLayerIsRemoved(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	h.push("a", "v1", nil, gzipped("a"), gzipped("b"))
	img := k.mustPull(t, h.host+"/a:v1")
	k.layers.Remove(t.Context(), img.Layers[0])
	k.reopen(t)
	k.wantEmpty(t)
}

// That the disk does not answer is no proof that a layer is gone.
func TestImageOfSilentDiskStays(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	h.push("a", "v1", nil, gzipped("a"))
	k.mustPull(t, h.host+"/a:v1")
	k.layers.silent = true
	k.reopen(t)
	k.layers.silent = false
	k.reopen(t)
	if l := k.List(); len(l) != 1 {
		t.Errorf("images = %v, want the one that was there", l)
	}
}

// A crash between two writes leaves a tag in two records: the younger has it.
func TestTagInTwoRecords(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	old := h.push("app", "v1", nil, gzipped("old"))
	k.mustPull(t, h.host+"/app:v1")
	path := filepath.Join(k.opts.Root, old.id.Encoded()+".json")
	stale, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	young := h.push("app", "v1", nil, gzipped("young"))
	k.mustPull(t, h.host+"/app:v1")
	os.WriteFile(path, stale, 0o600)
	k.reopen(t)
	if img, err := k.Get(h.host + "/app:v1"); err != nil || img.ID != young.id {
		t.Errorf("the tag leads to %s, %v", img.ID, err)
	}
	if err := k.Remove(t.Context(), young.id.String()); err != nil {
		t.Fatal(err)
	}
	k.reopen(t)
	if img, err := k.Get(h.host + "/app:v1"); err == nil {
		t.Errorf("the tag came back to %s", img.ID)
	}
}

func TestYoungerTagWinsInAnyOrder(t *testing.T) {
	tagged := func(id string, n uint64) record {
		return record{ID: digest.FromString(id), Config: []byte("{}"), Tags: map[string]uint64{"docker.io/library/a:latest": n}}
	}
	old, young := tagged("old", 1), tagged("young", 2)
	for _, order := range [][]record{{old, young}, {young, old}} {
		k := newKit(t, nil)
		for _, r := range order {
			k.index(r)
		}
		if img, _ := k.Get("a"); img.ID != young.ID || len(k.entries[old.ID].image.RepoTags) != 0 {
			t.Errorf("the tag leads to %s, the old image has %v", img.ID, k.entries[old.ID].image.RepoTags)
		}
	}
}

// A pull may pin a layer between the look at it and its removal.
func TestSweepLooksAgain(t *testing.T) {
	k, l := newKit(t, nil), plain("one")
	id := l.diffID()
	k.layers.layers[id] = l.tar
	give, err := k.holds.take(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- k.sweep(t.Context()) }()
	time.Sleep(20 * time.Millisecond) // for the sweep to wait; it passes earlier as well
	k.holds.pin([]digest.Digest{id})
	give()
	if err := <-done; err != nil || !k.layers.Has(id) {
		t.Errorf("the pinned layer was swept (%v)", err)
	}
}

func TestGetPrefix(t *testing.T) {
	_, k := newHub(t), newKit(t, nil)
	for _, hex := range []string{"aaaaaa1", "aaaaaa2", "bbbbbb1"} {
		id := digest.Digest("sha256:" + hex + strings.Repeat("0", 64-len(hex)))
		k.index(record{ID: id, Config: []byte("{}")})
	}
	for ref, want := range map[string]func(error) bool{
		"bbbbbb": nil, "sha256:bbbbbb": nil, "aaaaaa1": nil,
		"aaaaaa": errdefs.IsInvalidArgument, "bbbbb": errdefs.IsNotFound, "bbbbbbx": errdefs.IsNotFound, "": errdefs.IsNotFound,
	} {
		if _, err := k.Get(ref); want == nil && err != nil || want != nil && !want(err) {
			t.Errorf("get %q: %v", ref, err)
		}
	}
}

func TestUsage(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	before, err := k.Usage()
	if err != nil {
		t.Fatal(err)
	}
	l := gzipped("one")
	h.push("a", "v1", nil, l)
	k.mustPull(t, h.host+"/a:v1")
	after, _ := k.Usage()
	if grown := after.Bytes - before.Bytes; grown < uint64(len(l.tar)) || grown > uint64(len(l.tar))+64<<10 || after.Inodes != before.Inodes+2 || after.At.IsZero() {
		t.Errorf("usage grew from %+v to %+v", before, after)
	}
	k.Remove(t.Context(), h.host+"/a:v1")
	if end, _ := k.Usage(); end.Bytes > before.Bytes+4096 || end.Inodes != before.Inodes {
		t.Errorf("usage = %+v after removal, was %+v", end, before)
	}
}

func TestPinned(t *testing.T) {
	h := newHub(t)
	k := newKit(t, func(o *Options) { o.Pinned = []string{h.host + "/base*", "*:keep"} })
	for ref, want := range map[string]bool{"base:v1": true, "app:keep": true, "app:v1": false} {
		repo, tag, _ := strings.Cut(ref, ":")
		h.push(repo, tag, func(i *ocispec.Image, _ *ocispec.Manifest) { i.Author = ref }, gzipped("one"))
		if img := k.mustPull(t, h.host+"/"+ref); img.Pinned != want {
			t.Errorf("%s: pinned = %v", ref, img.Pinned)
		}
	}
}

func TestUser(t *testing.T) {
	n := func(i int64) *int64 { return &i }
	for user, want := range map[string]struct {
		uid  *int64
		name string
	}{
		"": {nil, ""}, "0": {n(0), ""}, "1002": {n(1002), ""}, "1003:1004": {n(1003), ""},
		"www-data": {nil, "www-data"}, "www-data:1004": {nil, "www-data"}, "-1": {nil, "-1"}, ":5": {nil, ""},
	} {
		var img Image
		img.Config.Config.User = user
		if uid, name := img.User(); !reflect.DeepEqual(uid, want.uid) || name != want.name {
			t.Errorf("%q: %v, %q", user, uid, name)
		}
	}
}

// What was set aside of an image is of no use once the image has come again.
func TestNewRecordReplacesWhatWasSetAside(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	p := h.push("app", "v1", nil, gzipped("one"))
	k.mustPull(t, h.host+"/app:v1")
	file := filepath.Join(k.opts.Root, p.id.Encoded()+recordSuffix)
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	k.reopen(t)
	if _, err := os.Stat(file + badSuffix); err != nil {
		t.Fatal(err)
	}
	k.mustPull(t, h.host+"/app:v1")
	images, damaged, err := Records{Root: k.opts.Root}.List()
	if err != nil || len(images) != 1 || len(damaged) != 0 {
		t.Errorf("images = %v, damaged = %v, %v, want one that is sound", images, damaged, err)
	}
}
