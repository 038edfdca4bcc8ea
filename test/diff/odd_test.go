package diff

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// oddLayer is a layer under construction, in the order of its entries.
type oddLayer struct {
	buf bytes.Buffer
	w   *tar.Writer
	err error
}

func newOddLayer() *oddLayer {
	l := &oddLayer{}
	l.w = tar.NewWriter(&l.buf)
	return l
}

// oddTime is when all was changed that has no time of its own.
var oddTime = time.Unix(1_500_000_000, 123_456_789)

// add adds an entry below odd/, changed before.
func (l *oddLayer) add(kind byte, name string, mode int64, changes ...func(*tar.Header)) *oddLayer {
	return l.content(kind, name, mode, "", changes...)
}

func (l *oddLayer) file(name string, mode int64, content string, changes ...func(*tar.Header)) *oddLayer {
	return l.content(tar.TypeReg, name, mode, content, changes...)
}

func (l *oddLayer) dir(name string, mode int64, changes ...func(*tar.Header)) *oddLayer {
	return l.content(tar.TypeDir, name+"/", mode, "", changes...)
}

func (l *oddLayer) link(name, target string) *oddLayer {
	return l.add(tar.TypeSymlink, name, 0o777, func(h *tar.Header) { h.Linkname = target })
}

// hard is a hard link to another name below odd/.
func (l *oddLayer) hard(name, target string) *oddLayer {
	return l.add(tar.TypeLink, name, 0o644, func(h *tar.Header) { h.Linkname = "odd/" + target })
}

func (l *oddLayer) content(kind byte, name string, mode int64, content string, changes ...func(*tar.Header)) *oddLayer {
	h := &tar.Header{
		Typeflag: kind, Name: "odd/" + name, Mode: mode, Size: int64(len(content)), ModTime: oddTime,
		Format: tar.FormatPAX, PAXRecords: map[string]string{},
	}
	for _, c := range changes {
		c(h)
	}
	if l.err == nil {
		l.err = l.w.WriteHeader(h)
	}
	if l.err == nil {
		_, l.err = io.WriteString(l.w, content)
	}
	return l
}

func (l *oddLayer) layer() (v1.Layer, error) {
	if l.err == nil {
		l.err = l.w.Close()
	}
	if l.err != nil {
		return nil, l.err
	}
	return layerOfTar(l.buf.Bytes())
}

func layerOfTar(data []byte) (v1.Layer, error) {
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
		tarball.WithMediaType(types.DockerLayer))
}

func owner(uid, gid int) func(*tar.Header) { return func(h *tar.Header) { h.Uid, h.Gid = uid, gid } }
func at(sec, nsec int64) func(*tar.Header) {
	return func(h *tar.Header) { h.ModTime = time.Unix(sec, nsec) }
}
func attr(name, value string) func(*tar.Header) {
	return func(h *tar.Header) { h.PAXRecords["SCHILY.xattr."+name] = value }
}
func node(major, minor int64) func(*tar.Header) {
	return func(h *tar.Header) { h.Devmajor, h.Devminor = major, minor }
}

// capability is a security.capability of CAP_NET_RAW, permitted and effective:
// VFS_CAP_REVISION_2 of linux/capability.h.
const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// oddLayers are layers with all that tars of layers can hold, to lie on any image.
func oddLayers(dir string) ([]v1.Layer, error) {
	var layers []v1.Layer
	for _, l := range []*oddLayer{oddFiles(), oddLower(), oddUpper(), oddTop(), newOddLayer()} {
		layer, err := l.layer()
		if err != nil {
			return nil, err
		}
		layers = append(layers, layer)
	}
	holes, err := sparseLayer(dir)
	if err != nil {
		return nil, fmt.Errorf("make a layer with holes: %w", err)
	}
	return append(layers, holes), nil
}

// oddFiles are files that are odd by themselves.
func oddFiles() *oddLayer {
	l := newOddLayer().dir("", 0o755).
		file("setuid", 0o4755, "setuid").file("setgid", 0o2755, "setgid").file("none", 0, "none").file("x-only", 0o111, "x").
		dir("sticky", 0o1777).dir("setgid-dir", 0o2775, owner(0, 50)).dir("empty", 0o700).
		file("owned", 0o640, "owned", owner(1000, 1001)).file("high", 0o600, "high", owner(1<<31-1, 1<<32-2)).
		file("before", 0o644, "1969", at(-1, 500)).file("epoch", 0o644, "1970", at(0, 0)).file("later", 0o644, "2106", at(1<<32+5, 999_999_999)).
		dir("old-dir", 0o755, at(86400, 1)).file("old-dir/new-file", 0o644, "new").
		file("user", 0o644, "user", attr("user.text", "text"), attr("user.binary", "\x01\xff\xfe"), attr("user.empty", "")).
		file("long-attr", 0o644, "", attr("user.long", strings.Repeat("v", 3000)), attr("user."+strings.Repeat("n", 200), "1")).
		file("capable", 0o755, "capable", attr("security.capability", capability)).
		dir("user-dir", 0o755, attr("user.dir", "dir")).
		file("trusted", 0o644, "", attr("trusted.own", "1")).
		add(tar.TypeChar, "null", 0o666, node(1, 3)).add(tar.TypeBlock, "block", 0o660, node(7, 300), owner(0, 6)).
		add(tar.TypeFifo, "fifo", 0o622).
		link("relative", "owned").link("absolute", "/odd/owned").link("dangling", "no/where").link("loop", "loop").
		link("long-target", strings.Repeat("t/", 2000)).link("odd-target", "a b\n\xff").
		dir("links", 0o755).file("links/a", 0o644, "one file").hard("links/b", "links/a").dir("links/below", 0o755).hard("links/below/c", "links/a").
		link("links/symbolic", "a").hard("links/symbolic-2", "links/symbolic").
		add(tar.TypeFifo, "links/fifo", 0o644).hard("links/fifo-2", "links/fifo").
		file(strings.Repeat("n", 255), 0o644, "long name").
		dir("many", 0o755)
	for i := range 1500 {
		l.file(fmt.Sprintf("many/%04d-%s", i, strings.Repeat("m", i%60)), 0o644, "")
	}
	deep := "deep"
	for range 12 {
		l.dir(deep, 0o755)
		deep += "/" + strings.Repeat("d", 200)
	}
	for _, name := range []string{
		"two words", "line\nend", "tab\t", `back\slash`, `"quotes"`, "-dash", "\xff\xfe not utf-8", "\u00fcml\u00e4ut", "\u65e5\u672c", "trailing.", "...", "wh.none", "%s*?[]$(x)", "\x01\x7f",
	} {
		l.file("names/"+name, 0o644, name)
	}
	for _, size := range []int{0, 1, 4095, 4096, 4097, 100_000} {
		l.file(fmt.Sprintf("size-%d", size), 0o644, strings.Repeat("0123456789abcdef", size/16+1)[:size])
	}
	return l.file("twice", 0o600, "first").file("twice", 0o644, "second")
}

// oddLower is what oddUpper and oddTop change.
func oddLower() *oddLayer {
	l := newOddLayer()
	for _, dir := range []string{"gone-dir", "opaque", "opaque-kept", "dir-to-file", "dir-to-link", "merged", "again-dir", "target"} {
		l.dir(dir, 0o755).dir(dir+"/below", 0o755).file(dir+"/below/file", 0o644, "lower").file(dir+"/file", 0o644, "lower")
	}
	return l.dir("changed", 0o755, attr("user.lower", "1")).file("changed/file", 0o644, "lower").
		dir("secret", 0o700, owner(5, 6), attr("user.dir", "kept"), at(1000, 0)).file("secret/old", 0o600, "lower").
		dir("secret/sticky", 0o1777, owner(7, 8)).
		dir("behind", 0o711, owner(9, 9)).dir("behind/gone", 0o711, owner(9, 9)).
		file("gone", 0o644, "lower").file("again", 0o600, "lower", owner(1, 1)).
		file("file-to-dir", 0o644, "lower").file("file-to-link", 0o644, "lower").link("link-to-dir", "target").link("link-to-file", "target/file").
		link("through", "target").link("replaced-link", "one").
		file("attr", 0o644, "lower", attr("user.lower", "1"), attr("user.both", "lower")).
		file("linked-1", 0o644, "linked").hard("linked-2", "linked-1").hard("linked-3", "linked-1").
		file("mode", 0o644, "same")
}

func oddUpper() *oddLayer {
	gone := func(name string) string {
		dir, file := filepath.Split(name)
		return dir + ".wh." + file
	}
	return newOddLayer().
		file(gone("gone"), 0o600, "").file(gone("gone-dir"), 0o600, "").file(gone("never-there"), 0o600, "").
		file("opaque/.wh..wh..opq", 0o600, "").file("opaque/new", 0o644, "upper").
		dir("opaque-kept", 0o750, owner(3, 3)).file("opaque-kept/.wh..wh..opq", 0o600, "").dir("opaque-kept/below", 0o700).
		file("dir-to-file", 0o644, "upper").link("dir-to-link", "target").
		dir("file-to-dir", 0o755).file("file-to-dir/file", 0o644, "upper").link("file-to-link", "owned").
		dir("link-to-dir", 0o755).file("link-to-dir/file", 0o644, "upper").file("link-to-file", 0o644, "upper").link("replaced-link", "two").
		dir("merged", 0o755).file("merged/new", 0o644, "upper").file(gone("merged/file"), 0o600, "").file("merged/below/new", 0o644, "upper").
		dir("changed", 0o2711, owner(10, 11), attr("user.upper", "1"), at(2000, 1)).
		// Of the directories nothing is said here.
		file("secret/new", 0o600, "upper").file("secret/sticky/new", 0o600, "upper").file(gone("behind/gone"), 0o600, "").
		// A link of another layer leads elsewhere.
		file("through/new", 0o644, "upper").file("through/below/new", 0o644, "upper").
		// Deleted and made again; the other order is one that containerd has no answer to.
		file(gone("again"), 0o600, "").file("again", 0o644, "upper").
		file(gone("again-dir"), 0o600, "").dir("again-dir", 0o755).file("again-dir/new", 0o644, "upper").
		file("attr", 0o644, "upper", attr("user.both", "upper"), attr("user.upper", "1")).
		file("linked-2", 0o644, "no longer linked").
		file("mode", 0o4711, "same", owner(12, 12))
}

// oddTop changes what has been changed before.
func oddTop() *oddLayer {
	return newOddLayer().
		dir("gone-dir", 0o700).file("gone-dir/new", 0o644, "top").
		file("gone", 0o400, "top").
		file("merged/.wh.new", 0o600, "").file("merged/.wh.below", 0o600, "").
		file("opaque/newer", 0o644, "top").
		dir("dir-to-file", 0o755).file("dir-to-file/top", 0o644, "top").
		file("secret/top", 0o600, "top").file("changed/top", 0o644, "top")
}

// sparseLayer is a layer with holes as GNU tar writes it; archive/tar writes none. Of its
// formats containerd knows the newer one only.
func sparseLayer(dir string) (v1.Layer, error) {
	const name = "odd/holes"
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for i := range int64(40) {
		if _, err := f.WriteAt(fmt.Appendf(nil, "piece %d", i), i<<18+i*777); err != nil {
			return nil, err
		}
	}
	if err := f.Truncate(12<<20 + 5); err != nil {
		return nil, err
	}
	var out, msg bytes.Buffer
	c := exec.Command("tar", "--create", "--sparse", "--format=posix", "--owner=0", "--group=0", "--mtime=@1500000000", "--directory="+dir, name)
	c.Stdout, c.Stderr = &out, &msg
	if err := c.Run(); err != nil {
		return nil, fmt.Errorf("tar: %w: %s", err, &msg)
	}
	if out.Len() > 4<<20 {
		return nil, fmt.Errorf("tar wrote %d bytes: the file system has no holes", out.Len())
	}
	return layerOfTar(out.Bytes())
}
