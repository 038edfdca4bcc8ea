package erofs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pack has GNU tar pack a directory.
func pack(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("tar", append(append([]string{"-c", "--numeric-owner", "--sort=name"}, args...), "-C", dir, ".")...)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil || problems.Len() > 0 {
		t.Fatalf("tar %v: %v\n%s", args, err, problems.String())
	}
	return out
}

// formatTree is what every format of tar can say.
func formatTree(t *testing.T) string {
	t.Helper()
	d := t.TempDir()
	do := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	long := d + "/" + strings.Repeat("a-directory-of-30-characters-/", 2)
	do(os.MkdirAll(long, 0o750))
	do(os.WriteFile(d+"/setuid", []byte("setuid"), 0o755))
	do(os.Chown(d+"/setuid", 1000, 100))
	do(os.Chmod(d+"/setuid", 0o755|os.ModeSetuid))
	do(os.Link(d+"/setuid", long+"hard"))
	do(os.Symlink("../a/b", d+"/symlink"))
	do(os.WriteFile(d+"/blocks", bytes.Repeat([]byte("0123456789abcde\n"), 1000), 0o600))
	do(os.WriteFile(d+"/empty", nil, 0o444))
	do(unix.Mkfifo(d+"/fifo", 0o620))
	do(unix.Mknod(d+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	do(unix.Mknod(d+"/disk", unix.S_IFBLK|0o660, int(unix.Mkdev(8, 17))))
	return d
}

// TestFormats: what GNU tar packs in any of its formats looks as GNU tar extracts it.
func TestFormats(t *testing.T) {
	for _, format := range []string{"v7", "oldgnu", "gnu", "ustar", "posix"} {
		t.Run(format, func(t *testing.T) {
			d := formatTree(t)
			switch format {
			case "v7":
				for _, name := range []string{"fifo", "null", "disk"} { // it has none
					if err := os.Remove(d + "/" + name); err != nil {
						t.Fatal(err)
					}
				}
			case "ustar": // a name that is split in two
				growTree(t, d, 150, 2097151, time.Unix(1700000000, 0))
			case "oldgnu", "gnu": // names and numbers that need a header or coding of their own
				growTree(t, d, 3000, 4294967294, time.Unix(-1234567, 0))
			case "posix":
				growTree(t, d, 3000, 4294967294, time.Unix(-1234567, 987654321))
				if err := unix.Lsetxattr(d+"/setuid", "user.note", []byte("kept"), 0); err != nil {
					t.Fatal(err)
				}
			}
			args := []string{"--format=" + format}
			if format == "posix" {
				args = append(args, "--xattrs", "--pax-option=delete=atime,delete=ctime")
			}
			in := pack(t, d, args...)
			img, res := image(t, bytes.NewReader(in), Options{})
			want := snapshot(t, extract(t, in))
			compare(t, snapshot(t, mount(t, img)), want)
			if len(want) < 8 || res.Dropped != 0 {
				t.Errorf("%d files, %d attributes dropped", len(want), res.Dropped)
			}
		})
	}
}

// growTree adds a file whose path has at least so many bytes, whose owner is uid and
// whose age is at, and a link to as long a name.
func growTree(t *testing.T, d string, length int, uid int, at time.Time) {
	t.Helper()
	path := d
	for len(path)-len(d) < length {
		path = filepath.Join(path, strings.Repeat("n", 90))
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(path, "file")
	for _, err := range []error{
		os.WriteFile(file, []byte("far down"), 0o644), os.Chown(file, uid, uid), os.Chtimes(file, at, at),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if length > 150 {
		if err := os.Link(file, d+"/linked"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(strings.Repeat("t", length), d+"/far"); err != nil {
			t.Fatal(err)
		}
	}
}

// sparseFormats are all ways in which GNU tar writes holes.
var sparseFormats = [][]string{
	{"--format=oldgnu"}, {"--format=gnu"},
	{"--format=posix", "--sparse-version=0.0"}, {"--format=posix", "--sparse-version=0.1"}, {"--format=posix", "--sparse-version=1.0"},
}

// writeSparse makes a file of that size with some bytes at offsets.
func writeSparse(t *testing.T, path string, size int64, offsets ...int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, off := range offsets {
		if _, err := f.WriteAt(fmt.Appendf(nil, "data at %d", off), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

// TestSparseFiles: files with holes of every form keep content and size, and take the
// room of their data.
func TestSparseFiles(t *testing.T) {
	d := t.TempDir()
	var many []int64
	for i := range int64(60) { // more than the first header and an extension hold
		many = append(many, i*128<<10+i)
	}
	writeSparse(t, d+"/many", 20<<20, many...)
	writeSparse(t, d+"/middle", 20<<20, 5<<20+123)
	writeSparse(t, d+"/end", 20<<20, 20<<20-20)
	writeSparse(t, d+"/hole", 20<<20)
	want := snapshot(t, d)
	for _, args := range sparseFormats {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			in := pack(t, d, append(args, "-S")...)
			if len(in) > 1<<20 {
				t.Fatalf("tar of %d bytes is not sparse", len(in))
			}
			img, _ := image(t, bytes.NewReader(in), Options{})
			got, extracted := snapshot(t, mount(t, img)), snapshot(t, extract(t, in))
			compare(t, got, extracted)
			for name := range want {
				if _, content, _ := strings.Cut(want[name], " size "); !strings.HasSuffix(got[name], content) {
					t.Errorf("%s: %s, want %s", name, got[name], content)
				}
			}
			var st unix.Stat_t
			if err := unix.Stat(img, &st); err != nil || st.Blocks*512 > 8<<20 {
				t.Errorf("image occupies %d bytes, %v", st.Blocks*512, err)
			}
		})
	}
}

// TestLargeFiles: a file of more than 4 GiB, in every form, is whole at its begin, at
// the 32 bit mark and at its end.
func TestLargeFiles(t *testing.T) {
	const size = 5<<30 + 18
	offsets := []int64{0, 4<<30 - 7, 5 << 30}
	d := t.TempDir()
	writeSparse(t, d+"/large", size, offsets...)
	if err := os.WriteFile(d+"/next", []byte("next"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range sparseFormats[1:] {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			in := pack(t, d, append(args, "-S")...)
			f, err := os.Create(filepath.Join(t.TempDir(), "image"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := Write(t.Context(), f, bytes.NewReader(in), Options{}); err != nil {
				t.Fatal(err)
			}
			m := mount(t, f.Name())
			large, err := os.Open(m + "/large")
			if err != nil {
				t.Fatal(err)
			}
			defer large.Close()
			if st := stat(t, m+"/large"); st.Size != size {
				t.Errorf("%d bytes, want %d", st.Size, size)
			}
			for _, off := range offsets {
				want := fmt.Sprintf("data at %d", off)
				got := make([]byte, len(want)+6)
				if n, err := large.ReadAt(got, off); err != nil && err != io.EOF || !strings.HasPrefix(string(got[:n]), want) {
					t.Errorf("at %d: %q, %v", off, got[:n], err)
				}
			}
			if got := content(t, m+"/next"); got != "next" {
				t.Errorf("next holds %q", got)
			}
		})
	}
}
