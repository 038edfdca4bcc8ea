package images

import (
	"archive/tar"
	"bytes"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// tree is a file tree in the order in which it was described. All times are the
// epoch and all owners root, so that one tree always gives the same bytes.
type tree struct {
	entries []entry
}

type entry struct {
	header tar.Header
	data   []byte
}

func (t *tree) dir(name string, mode int64) *tree {
	return t.add(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
}

func (t *tree) file(name string, mode int64, data []byte) *tree {
	return t.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))}, data)
}

func (t *tree) hardlink(name, target string) *tree {
	return t.add(tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o755}, nil)
}

func (t *tree) add(h tar.Header, data []byte) *tree {
	h.ModTime = time.Unix(0, 0)
	h.Format = tar.FormatPAX
	t.entries = append(t.entries, entry{header: h, data: data})
	return t
}

// layer is the tree as a compressed layer of the given media type.
func (t *tree) layer(mediaType types.MediaType) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range t.entries {
		h := e.header
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(mediaType))
}

// busyboxTree is the root of every image that needs a shell. Applets are hard links:
// critest masks /bin/ls, and masking a symbolic link would mask busybox itself.
func busyboxTree(b busybox, program []byte) *tree {
	t := &tree{}
	for _, d := range []string{"bin", "dev", "etc", "home", "lib", "mnt", "proc", "sbin", "sys", "usr", "usr/bin", "usr/sbin", "var", "var/run", "var/www"} {
		t.dir(d, 0o755)
	}
	t.dir("root", 0o700)
	t.dir("tmp", 0o1777)
	t.file("etc/passwd", 0o644, []byte(passwd))
	t.file("etc/group", 0o644, []byte(group))
	t.file("bin/busybox", 0o755, b.binary)
	for _, a := range b.applets {
		if a != "busybox" {
			t.hardlink("bin/"+a, "bin/busybox")
		}
	}
	t.file("bin/spew", 0o755, program)
	return t.hardlink("bin/hostile", "bin/spew")
}

// The accounts of upstream's busybox image: specs run as www-data and nobody.
const (
	passwd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
`
	group = `root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
lp:x:7:
mail:x:8:
kmem:x:9:
wheel:x:10:root
cdrom:x:11:
dialout:x:18:
floppy:x:19:
video:x:28:
audio:x:29:
tape:x:32:
www-data:x:33:
operator:x:37:
utmp:x:43:
plugdev:x:46:
staff:x:50:
lock:x:54:
netdev:x:82:
users:x:100:
nobody:x:65534:
`
)
