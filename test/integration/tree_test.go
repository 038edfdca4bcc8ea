package integration

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// entry is one member of a tar.
type entry struct {
	tar.Header
	data []byte
}

func file(name string, data []byte) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}, data}
}

func tarOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if e.ModTime.IsZero() {
			e.ModTime = time.Unix(1700000000, 123456789)
		}
		e.Format = tar.FormatPAX
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// odd are files of every kind that a layer can hold.
func odd() []entry {
	dir := func(name string, mode int64) entry {
		return entry{tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, Uid: 12, Gid: 34}, nil}
	}
	long := strings.Repeat("long-name-", 20)
	special := file("tree/xattr", []byte("xattr"))
	special.PAXRecords = map[string]string{
		"SCHILY.xattr.user.note":           "a value",
		"SCHILY.xattr.user.binary":         "\x01\x02\xff",
		"SCHILY.xattr.trusted.note":        "trusted",
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	}
	dirX := dir("tree/xattr-dir", 0o751)
	dirX.PAXRecords = map[string]string{"SCHILY.xattr.user.dir": "yes"}
	setuid := file("tree/setuid", []byte("#!"))
	setuid.Mode, setuid.Uid, setuid.Gid = 0o6755, 1000, 2000
	large := file("tree/owner", nil)
	large.Uid, large.Gid = 3_000_000_000, 4_000_000_000
	old := file("tree/old", []byte("old"))
	old.ModTime = time.Unix(0, 0)
	future := file("tree/future", []byte("f"))
	future.ModTime = time.Unix(7_000_000_000, 999_999_999)
	list := []entry{
		dir("tree", 0o755), dir("tree/sticky", 0o1777), dir("tree/setgid", 0o2750), dir("tree/none", 0o000), dirX,
		special, setuid, large, old, future,
		file("tree/empty", nil), file("tree/block", randomBytes(4096)), file("tree/block+1", randomBytes(4097)), file("tree/large", randomBytes(1<<20+77)),
		file("tree/"+long, []byte("long")), file("tree/ünïcode 日本\t", []byte("u")), file("tree/zeros", make([]byte, 300000)),
		{tar.Header{Typeflag: tar.TypeSymlink, Name: "tree/link", Linkname: "../etc/passwd", Mode: 0o777, Uid: 5}, nil},
		{tar.Header{Typeflag: tar.TypeSymlink, Name: "tree/dangling", Linkname: "/" + strings.Repeat("x/", 1000), Mode: 0o777}, nil},
		{tar.Header{Typeflag: tar.TypeLink, Name: "tree/hard1", Linkname: "tree/large", Mode: 0o644}, nil},
		{tar.Header{Typeflag: tar.TypeLink, Name: "tree/sticky/hard2", Linkname: "tree/hard1", Mode: 0o644}, nil},
		{tar.Header{Typeflag: tar.TypeLink, Name: "tree/hardlink-to-symlink", Linkname: "tree/link", Mode: 0o777, Uid: 5}, nil},
		{tar.Header{Typeflag: tar.TypeFifo, Name: "tree/fifo", Mode: 0o620}, nil},
		{tar.Header{Typeflag: tar.TypeChar, Name: "tree/char", Mode: 0o666, Devmajor: 1, Devminor: 3}, nil},
		{tar.Header{Typeflag: tar.TypeBlock, Name: "tree/blk", Mode: 0o660, Devmajor: 259, Devminor: 70000}, nil},
		dir("tree/many", 0o755),
	}
	for i := range 700 { // a directory of more than one block
		list = append(list, file(fmt.Sprintf("tree/many/file-%04d", i), []byte{byte(i)}))
	}
	// A member that comes twice: the later one counts.
	list = append(list, file("tree/empty", []byte("not any more")), dir("tree/late", 0o700))
	return list
}

// TestTree: a container sees a layer as GNU tar extracts it, but for trusted.* xattrs,
// which the layer store drops: overlayfs obeys some of them.
func TestTree(t *testing.T) {
	n := Start(t)
	layer := tarOf(t, odd()...)
	want := filepath.Join(n.Paths.Dir, "gnu")
	if err := os.Mkdir(want, 0o755); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("tar", "--extract", "--numeric-owner", "--same-owner", "--preserve-permissions", "--xattrs", "--xattrs-include=*", "--xattrs-exclude=trusted.*", "--delay-directory-restore", "-C", want)
	c.Stdin = bytes.NewReader(layer)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("GNU tar: %v\n%s", err, out)
	}
	root := n.rootOf("registry.example/tree:1", layer)
	expect, got := describe(t, filepath.Join(want, "tree")), describe(t, filepath.Join(root, "tree"))
	if len(expect) < 700 {
		t.Fatalf("GNU tar extracted %d files", len(expect))
	}
	for name, e := range expect {
		if got[name] != e {
			t.Errorf("%q\n is %s\nwant %s", name, got[name], e)
		}
	}
	for name, g := range got {
		if _, ok := expect[name]; !ok {
			t.Errorf("%q is %s, GNU tar has none", name, g)
		}
	}
}

// rootOf runs a container of busybox with one more layer and returns its root as the
// host sees it.
func (n *Node) rootOf(name string, layer []byte) string {
	n.t.Helper()
	return fmt.Sprintf("/proc/%d/root", n.ProcessOf(n.runImage(name, n.on(images.Busybox, layer))))
}

// runImage runs a container of an image that has a shell.
func (n *Node) runImage(name string, img v1.Image) string {
	n.t.Helper()
	if err := n.Registry.Add(n.t.TempDir(), name, img); err != nil {
		n.t.Fatal(err)
	}
	n.Pull(name)
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sleep", "3600")
	c.Image.Image = name
	return n.Started(pod, p, c)
}

// ProcessOf is the process id of a container's first process.
func (n *Node) ProcessOf(id string) int {
	n.t.Helper()
	r, err := n.Runtime.ContainerStatus(n.t.Context(), &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		n.t.Fatal(err)
	}
	var info struct{ Pid int }
	if err := json.Unmarshal([]byte(r.GetInfo()["info"]), &info); err != nil || info.Pid == 0 {
		n.t.Fatalf("the container's process is not known: %v, %v", r.GetInfo(), err)
	}
	return info.Pid
}

// describe maps every file below root to what can be known of it.
func describe(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	first := map[uint64]string{} // inode to the first of its names
	err := filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		rel := strings.TrimPrefix(name, root)
		text := fmt.Sprintf("mode %o owner %d:%d time %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" size %d %x", st.Size, sha256.Sum256(data))
		case unix.S_IFLNK:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" size %d to %s", st.Size, target)
		case unix.S_IFCHR, unix.S_IFBLK:
			text += fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if first[st.Ino] == "" {
				first[st.Ino] = rel
			}
			text += fmt.Sprintf(" links %d first %s", st.Nlink, first[st.Ino])
		}
		all[rel] = text + xattrs(name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func xattrs(name string) string {
	list := make([]byte, 4096)
	size, err := unix.Llistxattr(name, list)
	if err != nil {
		return " " + err.Error()
	}
	names := strings.Split(strings.TrimSuffix(string(list[:size]), "\x00"), "\x00")
	slices.Sort(names)
	var text strings.Builder
	for _, x := range names {
		if x == "" || strings.HasPrefix(x, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 4096)
		k, err := unix.Lgetxattr(name, x, value)
		if err != nil {
			k = 0
		}
		fmt.Fprintf(&text, " %s=%x", x, value[:k])
	}
	return text.String()
}

// TestWhiteouts: what an upper layer takes away is gone, and comes back as it says.
func TestWhiteouts(t *testing.T) {
	n := Start(t)
	dir := func(name string) entry {
		return entry{tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}, nil}
	}
	lower := tarOf(t, dir("w"), file("w/keep", []byte("1")), file("w/gone", []byte("1")), dir("w/opaque"), file("w/opaque/old", nil),
		dir("w/tree"), file("w/tree/deep", nil), dir("w/again"), file("w/again/old", nil), file("w/becomes", nil))
	upper := tarOf(t, dir("w"), file("w/.wh.gone", nil), dir("w/opaque"), file("w/opaque/.wh..wh..opq", nil), file("w/opaque/new", nil),
		file("w/.wh.tree", nil), file("w/.wh.again", nil), dir("w/again"), file("w/again/new", nil), dir("w/becomes"), file("w/becomes/file", nil))
	id := n.runImage("registry.example/whiteouts:1", n.above(n.on(images.Busybox, lower), upper))
	var got []string
	for name := range strings.Lines(n.Exec(id, "find", "/w")) {
		got = append(got, strings.TrimPrefix(strings.TrimSpace(name), "/w"))
	}
	slices.Sort(got)
	want := []string{"", "/again", "/again/new", "/becomes", "/becomes/file", "/keep", "/opaque", "/opaque/new"}
	if !slices.Equal(got, want) {
		t.Errorf("the tree is %q, want %q", got, want)
	}
}
