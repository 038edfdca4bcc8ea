package erofs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What the entries of a script are made of: names that meet each other, as files, as
// directories, and through links.
var (
	scriptNames = []string{"a", "b", "c", "a/a", "a/b", "b/a", "b/c", "a/b/c", "c/a/b", "./a", "a/", "/b", "b/./a", "a//c"}
	scriptLinks = []string{"a", "b", "c", "a/b", "b/c", ".", "nowhere", "b/a", "c/a"}
	scriptTypes = []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeReg, tar.TypeFifo, tar.TypeBlock, tar.TypeReg}
	scriptForms = []tar.Format{tar.FormatPAX, tar.FormatGNU, tar.FormatUSTAR}
)

// scriptTar makes a tar of a script: a byte for the format, then four bytes an entry, for
// its type, its name, where it leads and its attributes.
func scriptTar(script []byte) []byte {
	if len(script) == 0 {
		return nil
	}
	pick := func(list []string, b byte) string { return list[int(b)%len(list)] }
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	form := scriptForms[int(script[0])%len(scriptForms)]
	for rest := script[1:]; len(rest) >= 4 && b.Len() < 64<<10; rest = rest[4:] {
		h := &tar.Header{
			Name: pick(scriptNames, rest[1]), Typeflag: scriptTypes[int(rest[0])%len(scriptTypes)], Format: form,
			Mode: int64(rest[3]&7)*0o111 | 0o400, Uid: int(rest[3] >> 4), ModTime: someTime.Truncate(1e9),
		}
		body := ""
		switch h.Typeflag {
		case tar.TypeReg:
			body = strings.Repeat("x", int(rest[2])*int(rest[2]))
			if strings.HasSuffix(h.Name, "/") {
				h.Name = "c"
			}
		case tar.TypeSymlink:
			h.Linkname = pick(scriptLinks, rest[2])
		case tar.TypeLink:
			h.Linkname = pick(scriptNames, rest[2])
		case tar.TypeBlock:
			h.Devmajor, h.Devminor = int64(rest[2]), int64(rest[3])
		}
		h.Size = int64(len(body))
		if w.WriteHeader(h) != nil {
			continue // what this format cannot say
		}
		_, _ = io.WriteString(w, body)
	}
	_ = w.Close()
	return b.Bytes()
}

// dirTime is the time of directories, which is nowhere for those that a tar leaves out.
var dirTime = regexp.MustCompile(`^(mode 4\d{4} .*)mtime \S+`)

func withoutDirTimes(lines map[string]string) map[string]string {
	for p, line := range lines {
		lines[p] = dirTime.ReplaceAllString(line, "$1")
	}
	delete(lines, ".") // containerd leaves what it is given as it is
	return lines
}

// attach mounts an image nowhere: the mount goes with the descriptor, whatever happens
// to the process.
func attach(t *testing.T, img string) string {
	t.Helper()
	fs, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", img); err != nil {
		t.Fatal(err)
	}
	if err := unix.FsconfigSetFlag(fs, "ro"); err != nil {
		t.Fatal(err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		t.Fatalf("mount: %v", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fmt.Sprintf("/proc/self/fd/%d/.", fd)
}

// extractBoth gives a tar of conflicting entries to the writer and to containerd. An image
// passes fsck.erofs, too.
func extractBoth(t *testing.T, script []byte) (compared bool) {
	t.Helper()
	img, compared := applyBoth(t, scriptTar(script))
	if img == "" {
		return false
	}
	if msg, err := exec.Command("fsck.erofs", img).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs: %v\n%s", err, msg)
	}
	return compared
}

func FuzzExtract(f *testing.F) {
	for _, seed := range extractSeeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, script []byte) { extractBoth(t, script) })
}

// TestConflictingEntries: some scripts, the same at every run, of up to seven entries.
func TestConflictingEntries(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	compared := 0
	for range 60 {
		script := make([]byte, 1+4*(2+random.IntN(6)))
		for i := range script {
			script[i] = byte(random.Uint32())
		}
		if extractBoth(t, script) {
			compared++
		}
	}
	if compared < 15 {
		t.Errorf("only %d scripts were compared", compared)
	}
}

// listing shows a tar's entries.
func listing(in []byte) string {
	cmd := exec.Command("tar", "-tvv", "--numeric-owner")
	cmd.Stdin = bytes.NewReader(in)
	out, _ := cmd.CombinedOutput()
	return string(out)
}

// extractSeeds: each is a format and then type, name, target, attributes.
var extractSeeds = []string{
	"\x00" + "\x00\x00\x01\x06" + "\x00\x00\x02\x07",                                           // a file twice
	"\x01" + "\x01\x00\x00\x07" + "\x00\x03\x05\x06" + "\x00\x00\x02\x06",                      // a directory with a file becomes a file
	"\x02" + "\x00\x00\x05\x06" + "\x01\x00\x00\x07" + "\x00\x03\x02\x06",                      // a file becomes a directory
	"\x00" + "\x00\x00\x05\x06" + "\x03\x01\x00\x00" + "\x00\x00\x07\x06" + "\x03\x01\x00\x00", // a hard link that moves on
	"\x00" + "\x01\x01\x00\x07" + "\x02\x00\x01\x07" + "\x00\x04\x03\x06" + "\x01\x00\x00\x07", // through a link, which becomes a directory
	"\x00" + "\x02\x00\x05\x07" + "\x02\x01\x06\x07" + "\x02\x02\x0b\x07",                      // links to nothing, round and on
	"\x01" + "\x02\x00\x01\x07" + "\x03\x01\x00\x00" + "\x03\x02\x01\x00",                      // hard links to a link
	"\x00" + "\x01\x00\x00\x07" + "\x01\x09\x00\x35" + "\x01\x0a\x00\x13" + "\x01\x0e\x00\x20", // one directory by several names
	"\x00" + "\x05\x00\x00\x06" + "\x06\x01\x08\x11" + "\x00\x00\x01\x06" + "\x03\x02\x01\x00", // devices
	"\x00" + "\x00\x07\x04\x06" + "\x03\x02\x07\x00" + "\x00\x00\x01\x06" + "\x03\x01\x02\x00", // a link outlives its directory
}
