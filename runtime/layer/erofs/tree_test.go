package erofs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	goerofs "github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"
)

// snapshot describes a tree completely: one line a file, by path, with everything
// that a container can see of it. Inode numbers become the first path of that inode.
func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	first := map[uint64]string{}
	lines := map[string]string{}
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		st := stat(t, p)
		if first[st.Ino] == "" {
			first[st.Ino] = rel
		}
		line := fmt.Sprintf("mode %o owner %d:%d mtime %d.%09d links %d inode %s xattrs %s", st.Mode, st.Uid, st.Gid,
			st.Mtim.Sec, st.Mtim.Nsec, st.Nlink, first[st.Ino], xattrsOf(t, p))
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" size %d content %x", st.Size, checksum(b))
		case unix.S_IFLNK:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + target
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		lines[rel] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func xattrsOf(t *testing.T, p string) string {
	list := make([]byte, 1<<16)
	n, err := unix.Llistxattr(p, list)
	if err != nil {
		t.Fatalf("%s: %v", p, err)
	}
	var b strings.Builder
	names := strings.Split(string(list[:n]), "\x00")
	slices.Sort(names)
	for _, name := range names {
		if name == "" {
			continue
		}
		v := make([]byte, 1<<16)
		if name == ImpliedXattr {
			continue // overlayfs keeps it to itself
		}
		m, err := unix.Lgetxattr(p, name, v)
		if err != nil {
			t.Fatalf("%s %s: %v", p, name, err)
		}
		fmt.Fprintf(&b, "%s=%x,", name, v[:m])
	}
	return b.String()
}

func compare(t *testing.T, got, want map[string]string) {
	t.Helper()
	for p, w := range want {
		if got[p] != w {
			t.Errorf("%.60s:\n got %.300s\nwant %.300s", p, got[p], w)
		}
	}
	for p := range got {
		if want[p] == "" {
			t.Errorf("%s is too much", p)
		}
	}
}

// everything is a tar of all that tar can say and a Linux file system can hold.
func everything() []entry {
	id := func(e entry, mode int64, uid, gid int) entry {
		e.Mode, e.Uid, e.Gid, e.ModTime = mode, uid, gid, someTime
		return e
	}
	special := func(name string, kind byte, major, minor int64) entry {
		e := id(entry{Header: tar.Header{Name: name, Typeflag: kind}}, 0o640, 1, 2)
		e.Devmajor, e.Devminor = major, minor
		return e
	}
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"
	long := strings.Repeat("long-name-", 25)
	es := []entry{
		id(dir("./"), 0o755, 0, 0),
		id(dir("bin"), 0o755, 0, 0),
		id(file("bin/su", "setuid"), 0o4755, 0, 0),
		id(file("bin/wall", "setgid"), 0o2755, 0, 5),
		id(dir("tmp"), 0o1777, 0, 0),
		id(withXattr(file("bin/ping", "cap"), "security.capability", capability, "user.a", "1", "user.empty", ""), 0o755, 0, 0),
		id(withXattr(file("acl", "acl"), "system.posix_acl_access", acl), 0o640, 1000, 1000),
		id(withXattr(dir("xdir"), "user.dir", strings.Repeat("v", 900)), 0o700, 70000, 4294967294),
		id(withXattr(file("xlarge", "x"), "user.l", strings.Repeat("w", 3800)), 0o600, 100000, 200000),
		id(file("empty", ""), 0o600, 65535, 65536),
		id(file("one", "1"), 0o644, 0, 0),
		id(file("block", strings.Repeat("b", 4096)), 0o644, 0, 0),
		id(file("blocks", strings.Repeat("c", 4096*3+1)), 0o644, 0, 0),
		id(file("large", strings.Repeat("0123456789abcdef", 200000)), 0o644, 0, 0),
		id(file("zeros", strings.Repeat("\x00", 3<<20)+"end"), 0o644, 0, 0),
		id(symlink("short", "bin/su"), 0o777, 3, 4),
		id(symlink("inline", strings.Repeat("t/", 1900)), 0o777, 0, 0),
		id(symlink("spilled", strings.Repeat("u", 4095)), 0o777, 0, 0),
		id(link("bin/su2", "bin/su"), 0o4755, 0, 0), id(link("hard/link", "./bin/su"), 0o4755, 0, 0), id(link("hardsym", "short"), 0o777, 3, 4),
		special("char", tar.TypeChar, 1, 3), special("blockdev", tar.TypeBlock, 259, 1048575),
		special("chr", tar.TypeChar, 4095, 255), special("fifo", tar.TypeFifo, 0, 0),
		id(file(long+"/"+long+"/"+long, "long"), 0o644, 0, 0),
		id(file("ünï/\xff\xfe!", "bytes"), 0o644, 0, 0),
		id(file("sort/-", "-"), 0o644, 0, 0), id(file("sort/.x", "x"), 0o644, 0, 0), id(file("sort/..x", "x"), 0o644, 0, 0), id(file("sort/!", "x"), 0o644, 0, 0),
	}
	old := id(file("old", "before 1970"), 0o644, 0, 0)
	old.ModTime = someTime.AddDate(-70, 0, 0)
	// Again, since adding names changed the times of what GNU tar extracted.
	es = append(es, old, id(dir("bin"), 0o755, 0, 0), id(dir("hard"), 0o755, 9, 9), id(dir("ünï"), 0o755, 0, 0), id(dir("sort"), 0o755, 0, 0),
		id(dir(long), 0o755, 0, 0), id(dir(long+"/"+long), 0o755, 0, 0))
	deep := ""
	for range 200 {
		deep += "d/"
		es = append(es, id(dir(deep), 0o755, 0, 0))
	}
	return append(es, id(file(deep+"bottom", "deep"), 0o644, 0, 0))
}

// extract has GNU tar unpack a tar, which is what an image must look like.
func extract(t *testing.T, archive []byte) string {
	t.Helper()
	d := t.TempDir()
	cmd := exec.Command("tar", "-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", d)
	cmd.Stdin = bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	return d
}

func TestKernelShowsWhatGNUTarExtracts(t *testing.T) {
	in := makeTar(t, everything()...)
	img, res := image(t, bytes.NewReader(in), Options{})
	if res.Dropped != 0 {
		t.Errorf("dropped %d", res.Dropped)
	}
	want := snapshot(t, extract(t, in))
	if len(want) < 230 {
		t.Fatalf("only %d files", len(want))
	}
	compare(t, snapshot(t, mount(t, img)), want)
}

func TestLargeDirectory(t *testing.T) {
	const count = 100_000
	var es []entry
	for i := range count {
		es = append(es, file(fmt.Sprintf("many/%05d-%s", i, strings.Repeat("x", i%60)), ""))
	}
	d := mountTar(t, es...)
	names, err := os.ReadDir(d + "/many")
	if err != nil || len(names) != count {
		t.Fatalf("%d names, %v", len(names), err)
	}
	for _, e := range es {
		stat(t, d+"/"+e.Name)
	}
	absent(t, d+"/many/00000-x")
	absent(t, d+"/many/99999-y")
}

// An independent reader of the format, which shares no code with the kernel.
func TestAnotherReader(t *testing.T) {
	in := makeTar(t, everything()...)
	img, _ := image(t, bytes.NewReader(in), Options{})
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fsys, err := goerofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	root := mount(t, img)
	seen := 0
	err = fs.WalkDir(fsys, ".", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		seen++
		if !e.Type().IsRegular() {
			return nil
		}
		b, err := fs.ReadFile(fsys, p)
		if err != nil {
			return err
		}
		if want := content(t, filepath.Join(root, p)); string(b) != want {
			t.Errorf("%.60s: content differs", p)
		}
		return nil
	})
	if err != nil || seen != len(snapshot(t, root)) {
		t.Errorf("saw %d, %v", seen, err)
	}
}
