package conformance

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/vmsandbox"
	"github.com/cricket-cri/cricket/vmsandbox/node"
)

// large is how many bytes are read of an image; little is what may come to a page cache
// beside that, of metadata, logs and writable layers.
const (
	large  = 48 << 20
	little = 6 << 20
)

// TestVirtualDAX maps images as memory.
func TestVirtualDAX(t *testing.T) {
	h := NewVirtualHull(t, func(o *node.Options) { o.Rootfs = vmsandbox.RootfsDAX })
	t.Run("page cache", func(t *testing.T) { testOnePageCache(t, h) })
	for _, name := range []string{"life", "many images", "user namespace", "restart", "sweep", "limits"} {
		t.Run(name, func(t *testing.T) { cases[name](t, h) })
	}
	t.Run("growth", func(t *testing.T) { testGrowthBeside(t, h) })
	t.Run("removed image", func(t *testing.T) { testRemovedImage(t, h) })
}

// largeImage is one of two layers with a large file, of which nothing is in the page cache.
func largeImage(t testing.TB, h *Hull) (image []digest.Digest, sum string) {
	t.Helper()
	content := make([]byte, large)
	_, _ = rand.Read(content) // never fails
	image = h.Node.derive(t, "large", string(content))
	whole := sha256.Sum256(content)
	// The store reads the layers' metadata once.
	if _, err := h.Node.Layers.Flat(limited(t), image); err != nil {
		t.Fatal(err)
	}
	evict(t, blobOf(t, h, image))
	return image, hex.EncodeToString(whole[:])
}

// blobOf is the file of an image's uppermost layer.
func blobOf(t testing.TB, h *Hull, image []digest.Digest) string {
	t.Helper()
	path, _, err := h.Node.Layers.Blob(image[len(image)-1])
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// evict takes a file out of the host's page cache.
func evict(t testing.TB, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	if left := resident(t, path); left > 0 {
		t.Fatalf("%d bytes of %s stay in the page cache", left, path)
	}
}

// resident is how many bytes of files are in the host's page cache.
func resident(t testing.TB, paths ...string) (bytes int64) {
	t.Helper()
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		size := int(st.Size())
		m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		pages := make([]byte, (size+4095)/4096)
		_, _, no := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(size), uintptr(unsafe.Pointer(&pages[0])))
		if no != 0 {
			t.Fatal(no)
		}
		if err := unix.Munmap(m); err != nil {
			t.Fatal(err)
		}
		for _, p := range pages {
			bytes += int64(p&1) * 4096
		}
	}
	return bytes
}

// cached is how many bytes are in a guest's page cache.
func cached(t testing.TB, c runtime.Container) int64 {
	t.Helper()
	var all int64
	for line := range strings.Lines(output(t, c, "cat /proc/meminfo")) {
		name, rest, _ := strings.Cut(line, ":")
		if name == "Cached" || name == "Buffers" {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			all += kib << 10
		}
	}
	return all
}

// read is what reading the large file brings to the page caches of a pod's guest and of the
// host, there as far as files of this node's go.
func (h *Hull) read(t testing.TB, name string, image []digest.Digest, sum string) (guest, host int64) {
	t.Helper()
	s := h.pod(t, func(c *sandbox.Config) { c.ID, c.Name = id(t, name+" pod"), name })
	c := h.shell(t, name, idle)
	c.Image = image
	live := start(t, s, c)
	output(t, live, "sha256sum /bin/sha256sum; cat /proc/meminfo")
	guest, host = cached(t, live), resident(t, h.files(t)...)
	if got := output(t, live, "sha256sum /large"); got != sum+"  /large" {
		t.Errorf("the file in %s is %s, not %s", name, got, sum)
	}
	return cached(t, live) - guest, resident(t, h.files(t)...) - host
}

// files are those that machines read and write: layers and disks.
func (h *Hull) files(t testing.TB) (all []string) {
	t.Helper()
	for _, pattern := range []string{"layers/*.erofs", "layers/merged/*", "vm/disks/*/*", "vm/disks/*"} {
		found, err := filepath.Glob(filepath.Join(h.Node.Paths.Root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Size() > 0 {
				all = append(all, path)
			}
		}
	}
	return all
}

// testOnePageCache lets two machines read one image: its data is in memory once, on the
// host.
func testOnePageCache(t *testing.T, h *Hull) {
	image, sum := largeImage(t, h)
	guest, host := h.read(t, "first", image, sum)
	if guest > little || host < large-little || host > large+little { // what came with the mount is there before
		t.Errorf("to read %d bytes took %d of the guest's page cache and %d of the host's", large, guest, host)
	}
	guest, host = h.read(t, "second", image, sum)
	if guest > little || host > little {
		t.Errorf("to read %d bytes again took %d of the guest's page cache and %d of the host's", large, guest, host)
	}
	t.Logf("the second reader adds %d bytes to the guest's page cache and %d to the host's", guest, host)
}

// testGrowthBeside adds memory to a machine that has mapped images, and maps one more.
func testGrowthBeside(t *testing.T, h *Hull) {
	s := h.pod(t)
	live := start(t, s, h.shell(t, "small", idle))
	const total = "grep MemTotal /proc/meminfo | grep -o '[0-9]*'"
	before := output(t, live, total)
	c := h.shell(t, "large", idle)
	c.Resources = &runtime.Resources{MemoryLimit: 700 << 20}
	c.Image = h.Node.derive(t, "which", "beside\n")
	large := start(t, s, c)
	was, err1 := strconv.Atoi(before)
	is, err2 := strconv.Atoi(output(t, large, total))
	if err := errors.Join(err1, err2); err != nil || is < was+200<<10 {
		t.Errorf("the machine had %d KiB, and has %d, %v", was, is, err)
	}
	wants(t, large, map[string]string{"cat /which": "beside"})
}

// testRemovedImage removes an image that is mapped: its containers keep it, and its space
// comes back with the pod's end.
func testRemovedImage(t *testing.T, h *Hull) {
	image, sum := largeImage(t, h)
	s := h.pod(t)
	c := h.shell(t, "one", idle)
	c.Image = image
	live := start(t, s, c)
	if err := h.Node.Layers.Remove(limited(t), image[len(image)-1]); err != nil {
		t.Fatal(err)
	}
	if got := output(t, live, "sha256sum /large"); got != sum+"  /large" {
		t.Errorf("the file of the removed image is %s, not %s", got, sum)
	}
	// The pod still has it for a container that is made again.
	if err := live.Remove(limited(t)); err != nil {
		t.Fatal(err)
	}
	c = h.shell(t, "two", "sha256sum /large")
	c.Image = image
	if got, exit := h.run(t, s, c); got != fmt.Sprintf("stdout F %s  /large\n", sum) || exit.Code != 0 {
		t.Errorf("in the next container: %q, %+v", got, exit)
	}
}

// TestVirtualStrict has pods that read past the host's page cache: they leave nothing there,
// and use nothing that is there.
func TestVirtualStrict(t *testing.T) {
	h := NewVirtualHull(t, func(o *node.Options) { o.Unshared, o.Pool = true, 0 })
	single := blobOf(t, h, h.Node.Image)
	evict(t, single)
	if out, exit := h.run(t, h.pod(t), h.shell(t, "single", "cat /bin/busybox | wc -c")); exit.Code != 0 || resident(t, single) > 0 {
		t.Errorf("%q %+v, and %d bytes of the layer are in the page cache", out, exit, resident(t, single))
	}
	image, sum := largeImage(t, h)
	if _, host := h.read(t, "first", image, sum); host > little {
		t.Errorf("to read %d bytes took %d of the host's page cache", large, host)
	}
	blob := blobOf(t, h, image)
	if left := resident(t, blob); left > 0 {
		t.Errorf("%d bytes of the layer are in the page cache", left)
	}
	if _, err := os.ReadFile(blob); err != nil { // now they are, all
		t.Fatal(err)
	}
	before := fromStorage(t, h)
	if _, host := h.read(t, "second", image, sum); host > little {
		t.Errorf("to read %d bytes took %d of the host's page cache", large, host)
	}
	if read := fromStorage(t, h) - before; read < large {
		t.Errorf("only %d bytes came from the storage, the rest from the page cache", read)
	}
}

// fromStorage is how many bytes the machines of a hull have had read from storage.
func fromStorage(t testing.TB, h *Hull) (bytes int64) {
	t.Helper()
	machines, err := os.ReadDir(h.virtual.State + "/vm/machines")
	if err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		line, _ := os.ReadFile(file) // it may be gone
		for _, m := range machines {
			if !strings.Contains(string(line), "\x00guest="+m.Name()+"\x00") {
				continue
			}
			io, err := os.ReadFile(filepath.Join(filepath.Dir(file), "io"))
			if err != nil {
				t.Fatal(err)
			}
			_, rest, _ := strings.Cut(string(io), "\nread_bytes: ")
			rest, _, _ = strings.Cut(rest, "\n")
			n, err := strconv.ParseInt(rest, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			bytes += n
		}
	}
	return bytes
}
