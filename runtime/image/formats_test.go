package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	store "github.com/cricket-cri/cricket/runtime/layer"
)

// diskKit is a kit whose layers are on the disk, and what describes that disk.
type diskKit struct {
	*kit
	store *store.Store
	dir   string
}

func newDiskKit(t *testing.T, change func(*Options)) *diskKit {
	t.Helper()
	dir := t.TempDir()
	layers, err := store.Open(store.Options{Root: dir + "/layers", State: dir + "/state"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, id := range layers.List() {
			if err := layers.Remove(context.Background(), id); err != nil {
				t.Error(err)
			}
		}
		_ = unix.Unmount(dir+"/state", unix.MNT_DETACH) // bound where mounts are shared
	})
	k := &kit{opts: Options{Root: dir + "/images", Layers: layers, Backoff: 1}}
	if change != nil {
		change(&k.opts)
	}
	k.reopen(t)
	return &diskKit{k, layers, dir}
}

// disk lists all files of the store with size and mode.
func (k *diskKit) disk(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, sub := range []string{"layers", "images", "state"} {
		err := filepath.WalkDir(filepath.Join(k.dir, sub), func(p string, e os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			if err == nil && !e.IsDir() {
				fmt.Fprintf(&b, "%s %v %d %s\n", strings.TrimPrefix(p, k.dir), info.Mode(), info.Size(), info.ModTime())
			} else {
				fmt.Fprintf(&b, "%s %v\n", strings.TrimPrefix(p, k.dir), info.Mode())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// read returns what a container of the image finds in a file.
func (k *diskKit) read(t *testing.T, img Image, name string) string {
	t.Helper()
	files, err := k.store.ReadFiles(t.Context(), img.Layers, name)
	if err != nil {
		t.Fatal(err)
	}
	return string(files[name])
}

// named makes a layer with one file.
func named(name, content string) layer {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	_ = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg})
	_, _ = w.Write([]byte(content))
	_ = w.Close()
	return layer{buf.Bytes(), buf.Bytes(), ocispec.MediaTypeImageLayer}
}

func gzipBytes(raw []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, _ = w.Write(raw)
	_ = w.Close()
	return buf.Bytes()
}

func zstdBytes(raw []byte) []byte {
	w, _ := zstd.NewWriter(nil)
	return w.EncodeAll(raw, nil)
}

// skippable is a frame that readers of zstd pass over.
func skippable(n byte, content string) []byte {
	b := []byte{0x50 | n, 0x2a, 0x4d, 0x18}
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(content))), content...)
}

// chunked is a layer as zstd:chunked has it: a frame for each chunk, and its table of
// contents in skippable frames.
func chunked(content string) layer {
	l := named("file", content)
	var blob []byte
	for rest := l.tar; len(rest) > 0; {
		n := min(512, len(rest))
		blob = append(blob, zstdBytes(rest[:n])...)
		rest = rest[n:]
	}
	blob = append(blob, skippable(0, "manifest: "+string(zstdBytes([]byte(`{"version":1}`))))...)
	blob = append(blob, skippable(0, strings.Repeat("f", 64)+"GNUlInUx")...)
	return layer{l.tar, blob, ocispec.MediaTypeImageLayerZstd}
}

// TestLayerCompression pulls one content in every form that a layer's blob has in the
// field, under whatever media type.
func TestLayerCompression(t *testing.T) {
	content := noise(5000)
	plain := named("file", content)
	half := len(plain.tar) / 2
	old := plain // of a tar before POSIX, without a mark
	old.tar = bytes.Clone(plain.tar)
	copy(old.tar[257:265], make([]byte, 8))
	sum := 8 * int(' ')
	for i, c := range old.tar[:512] {
		if i < 148 || i >= 156 {
			sum += int(c)
		}
	}
	copy(old.tar[148:], fmt.Sprintf("%06o\x00 ", sum))
	old.blob = old.tar
	for name, l := range map[string]layer{
		"uncompressed":        plain,
		"v7":                  old,
		"gzip":                {plain.tar, gzipBytes(plain.tar), ocispec.MediaTypeImageLayerGzip},
		"gzip of two members": {plain.tar, append(gzipBytes(plain.tar[:half]), gzipBytes(plain.tar[half:])...), ocispec.MediaTypeImageLayerGzip},
		"gzip, empty members": {plain.tar, append(append(gzipBytes(nil), gzipBytes(plain.tar)...), gzipBytes(nil)...), ocispec.MediaTypeImageLayerGzip},
		"zstd":                {plain.tar, zstdBytes(plain.tar), ocispec.MediaTypeImageLayerZstd},
		"zstd of two frames":  {plain.tar, append(zstdBytes(plain.tar[:half]), zstdBytes(plain.tar[half:])...), ocispec.MediaTypeImageLayerZstd},
		"zstd:chunked":        chunked(content),
		"zstd, frame skipped": {plain.tar, append(skippable(15, "first"), zstdBytes(plain.tar)...), ocispec.MediaTypeImageLayerZstd},
		"zstd called gzip":    {plain.tar, zstdBytes(plain.tar), ocispec.MediaTypeImageLayerGzip},
		"tar called zstd":     {plain.tar, plain.tar, ocispec.MediaTypeImageLayerZstd},
	} {
		t.Run(name, func(t *testing.T) {
			h, k := newHub(t), newDiskKit(t, nil)
			h.push("app", "v1", nil, l)
			if got := k.read(t, k.mustPull(t, h.host+"/app:v1"), "file"); got != content {
				t.Errorf("file holds %d bytes, %.20q", len(got), got)
			}
		})
	}
}

// TestEmptyLayers: layers without a file, as an end mark and as nothing at all, several
// times in one image.
func TestEmptyLayers(t *testing.T) {
	mark := layer{make([]byte, 1024), gzipBytes(make([]byte, 1024)), ocispec.MediaTypeImageLayerGzip}
	none := layer{nil, nil, ocispec.MediaTypeImageLayer}
	noneGzip := layer{nil, gzipBytes(nil), ocispec.MediaTypeImageLayerGzip}
	h, k := newHub(t), newDiskKit(t, nil)
	h.push("app", "v1", nil, mark, named("file", "content"), none, mark)
	h.push("empty", "v1", nil, mark)
	h.push("nothing", "v1", nil, noneGzip)
	if got := k.read(t, k.mustPull(t, h.host+"/app:v1"), "file"); got != "content" {
		t.Errorf("file holds %q", got)
	}
	for _, repo := range []string{"empty", "nothing"} {
		img := k.mustPull(t, h.host+"/"+repo+":v1")
		dirs, err := k.store.Mount(t.Context(), img.Layers)
		if err != nil {
			t.Fatal(err)
		}
		if files, err := os.ReadDir(dirs[0]); err != nil || len(files) > 0 {
			t.Errorf("%s: %v, %v", repo, files, err)
		}
	}
	if l := k.store.List(); len(l) != 3 {
		t.Errorf("layers %v, want three", l)
	}
}

// TestManyLayers: as many layers as other runtimes allow; the uppermost is seen.
func TestManyLayers(t *testing.T) {
	const count = 127
	var layers []layer
	for i := range count {
		layers = append(layers, named("file", fmt.Sprint(i)))
		if i%2 == 0 {
			layers[i] = named(fmt.Sprintf("own/%d", i), fmt.Sprint(i))
		}
	}
	h, k := newHub(t), newDiskKit(t, nil)
	h.push("app", "v1", nil, layers...)
	img := k.mustPull(t, h.host+"/app:v1")
	if got := k.read(t, img, "file"); got != "125" {
		t.Errorf("file holds %q", got)
	}
	dirs, err := k.store.Mount(t.Context(), img.Layers)
	if err != nil || len(dirs) != count {
		t.Fatalf("%d directories, %v", len(dirs), err)
	}
	root := overlayOf(t, dirs)
	for i := 0; i < count; i += 2 {
		if got, err := os.ReadFile(fmt.Sprintf("%s/own/%d", root, i)); err != nil || string(got) != fmt.Sprint(i) {
			t.Errorf("own/%d holds %q, %v", i, got, err)
		}
	}
	if got, err := os.ReadFile(root + "/file"); err != nil || string(got) != "125" {
		t.Errorf("file holds %q, %v", got, err)
	}
}

// overlayOf stacks directories, the lowest first. The mount goes with its descriptor.
func overlayOf(t *testing.T, dirs []string) string {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	check(err)
	defer unix.Close(fs)
	for i := len(dirs) - 1; i >= 0; i-- {
		check(unix.FsconfigSetString(fs, "lowerdir+", dirs[i]))
	}
	check(unix.FsconfigCreate(fs))
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	check(err)
	t.Cleanup(func() { unix.Close(fd) })
	return fmt.Sprintf("/proc/self/fd/%d", fd)
}

// TestSharedLayersAreStoredOnce: two images on one base occupy the base once, however
// it was compressed, and it goes with the last of them.
func TestSharedLayersAreStoredOnce(t *testing.T) {
	base := named("base", noise(4<<20))
	again := layer{base.tar, zstdBytes(base.tar), ocispec.MediaTypeImageLayerZstd}
	h, k := newHub(t), newDiskKit(t, nil)
	h.push("a", "v1", nil, base, named("own", "a"))
	h.push("b", "v1", nil, again, named("own", "b"))
	a := k.mustPull(t, h.host+"/a:v1")
	before, _ := k.store.Usage()
	h.fetched()
	b := k.mustPull(t, h.host+"/b:v1")
	after, _ := k.store.Usage()
	if len(k.store.List()) != 3 || after-before > 64<<10 {
		t.Errorf("%d layers, %d bytes more", len(k.store.List()), after-before)
	}
	for _, d := range h.fetched() {
		if d == digest.FromBytes(again.blob).String() {
			t.Error("the base was fetched again")
		}
	}
	if err := k.Remove(t.Context(), a.ID.String()); err != nil {
		t.Fatal(err)
	}
	if got := k.read(t, b, "own"); got != "b" || len(k.store.List()) != 2 {
		t.Errorf("own holds %q, %d layers", got, len(k.store.List()))
	}
	if err := k.Remove(t.Context(), b.ID.String()); err != nil {
		t.Fatal(err)
	}
	if l := k.store.List(); len(l) > 0 {
		t.Errorf("layers %v are left", l)
	}
}
