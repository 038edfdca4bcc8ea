package qemu

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/vmsandbox/tree"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

const (
	program   = "/usr/bin/qemu-system-x86_64"
	memoryMiB = 256
	// patience with an emulated guest on a busy machine.
	patience = 90 * time.Second
)

// image returns a kernel, and an initial RAM file system whose process 1 is the one in
// testdata: the guest image's with another /init laid over.
func image(t testing.TB) (kernel, initrd string) {
	t.Helper()
	dir := os.Getenv("CRICKET_GUEST")
	if dir == "" {
		dir = "../../bin/guest"
	}
	kernel = filepath.Join(dir, "vmlinux")
	base, err := os.ReadFile(filepath.Join(dir, "initrd"))
	if err != nil {
		t.Fatalf("no guest image, make guest builds it: %v", err)
	}
	if kernel, err = filepath.Abs(kernel); err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(tmp, "init"), "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build guest: %v\n%s", err, out)
	}
	init, err := os.ReadFile(filepath.Join(tmp, "init"))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	b.Write(base)
	b.Write(make([]byte, -len(base)&3))
	cpio(&b, "init", 0o100755, init)
	cpio(&b, "TRAILER!!!", 0, nil)
	initrd = filepath.Join(tmp, "initrd")
	if err := os.WriteFile(initrd, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return kernel, initrd
}

func cpio(b *bytes.Buffer, name string, mode uint32, data []byte) {
	begin := b.Len()
	b.WriteString("070701")
	for _, v := range []uint32{1, mode, 0, 0, 1, 0, uint32(len(data)), 0, 0, 0, 0, uint32(len(name) + 1), 0} {
		fmt.Fprintf(b, "%08x", v)
	}
	b.WriteString(name + "\x00")
	b.Write(make([]byte, -(b.Len()-begin)&3))
	b.Write(data)
	b.Write(make([]byte, -(b.Len()-begin)&3))
}

func memfd(t testing.TB, size int64) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

// shortDir is a directory with a path short enough for sockets. Nothing below it may stay
// mounted, which monitortest.ShortDir does not look for.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "cq")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// guest is a connection to one of a machine's ports.
type guest struct {
	conn  net.Conn
	lines *bufio.Reader
}

// talk connects to a port and waits until the guest answers. What earlier connections
// have not read is dropped.
func talk(t testing.TB, m vmm.Machine, port string) *guest {
	t.Helper()
	conn, err := net.Dial("unix", m.Socket(port))
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{conn: conn, lines: bufio.NewReader(conn)}
	t.Cleanup(func() { conn.Close() })
	nonce := fmt.Sprint(time.Now().UnixNano())
	began := time.Now()
	_ = conn.SetDeadline(began.Add(patience))
	fmt.Fprintf(conn, "\nping %s\n", nonce)
	for {
		line, err := g.lines.ReadString('\n')
		if err != nil {
			t.Fatalf("guest does not answer: %v; it said: %s", err, lastWords(m.Dir()))
		}
		if strings.TrimSpace(line) == "pong "+nonce {
			return g
		}
	}
}

// try sends a command and returns the answer.
func (g *guest) try(words ...any) string {
	_ = g.conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintln(g.conn, words...)
	line, err := g.lines.ReadString('\n')
	if err != nil {
		return "error " + err.Error()
	}
	return strings.TrimSpace(line)
}

func (g *guest) do(t *testing.T, words ...any) string {
	t.Helper()
	answer := g.try(words...)
	if strings.HasPrefix(answer, "error") {
		t.Fatalf("%v: %s", words, answer)
	}
	return answer
}

func shape(kernel, initrd string) vmm.Shape {
	return vmm.Shape{
		Machine: "q35", Accelerator: vmm.AccelTCG, VCPUs: 1, MemoryMiB: memoryMiB, MaxMemoryMiB: 1024,
		Kernel: kernel, Initrd: initrd, Cmdline: "mitigations=off",
	}
}

// seal copies memory into a file that nobody can change any more.
func seal(t testing.TB, memory *os.File) *os.File {
	t.Helper()
	sealed := memfd(t, memoryMiB<<20)
	copyMemory(t, sealed, memory)
	if _, err := unix.FcntlInt(sealed.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		t.Fatal(err)
	}
	return sealed
}

// copyMemory copies what was ever written.
func copyMemory(t testing.TB, to, from *os.File) {
	t.Helper()
	var off int64
	for {
		data, err := unix.Seek(int(from.Fd()), off, unix.SEEK_DATA)
		if err != nil {
			return
		}
		hole, err := unix.Seek(int(from.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := to.Seek(data, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(to, io.NewSectionReader(from, data, hole-data)); err != nil {
			t.Fatal(err)
		}
		off = hole
	}
}

func background(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	t.Cleanup(cancel)
	return ctx
}
