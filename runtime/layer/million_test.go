package layer

import (
	"archive/tar"
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// manyEnv makes the test a process that ingests so many entries of that shape, below a
// directory, and nothing else.
const manyEnv = "CRICKET_TEST_MANY"

// memoryLimit is what a process may take to ingest a layer of a million entries.
const memoryLimit = 256 << 20

// writeMany writes a tar of so many entries: trees of packages, or one directory.
func writeMany(out io.Writer, shape string, entries int) error {
	w := tar.NewWriter(out)
	for i := range entries {
		h := tar.Header{Name: fmt.Sprintf("usr/lib/modules/package-%05d/source-%03d.js", i/100, i%100), Typeflag: tar.TypeReg, Mode: 0o644}
		switch {
		case shape == "flat":
			h.Name = fmt.Sprintf("var/cache/entry-%07d", i)
		case i%100 == 0:
			h.Name, h.Typeflag = fmt.Sprintf("usr/lib/modules/package-%05d/", i/100), tar.TypeDir
		case i%100 == 1:
			h.Size = 1000
		}
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			return err
		}
	}
	return w.Close()
}

// ingestMany is the process; it prints the most memory that it ever had.
func ingestMany(shape string, entries int, dir string) error {
	digester := digest.Canonical.Digester()
	if err := writeMany(digester.Hash(), shape, entries); err != nil {
		return err
	}
	s, err := Open(Options{Root: dir + "/root", State: dir + "/state"})
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() {
		b := bufio.NewWriterSize(w, 1<<16)
		err := writeMany(b, shape, entries)
		if err == nil {
			err = b.Flush()
		}
		w.CloseWithError(err)
	}()
	if err := s.Ingest(context.Background(), digester.Digest(), r); err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	kib, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	fmt.Println("peak", kib)
	return nil
}

// plainTest builds this test as the product is built: the race detector, under which it may
// run itself, takes several times the memory.
func plainTest(t *testing.T) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "plain.test")
	build := exec.Command("go", "test", "-c", "-vet=off", "-race=false", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the test without race detector: %v\n%s", err, out)
	}
	return program
}

// peakOf ingests in a process of its own and returns its peak of memory in bytes.
func peakOf(t *testing.T, program, shape string, entries int) int64 {
	t.Helper()
	cmd := exec.Command(program, "-test.run=^TestManyEntries$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %s", manyEnv, shape, entries, t.TempDir()))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("ingest of %d entries: %v\n%s", entries, err, out)
	}
	_, after, _ := strings.Cut(string(out), "peak ")
	kib, _, _ := strings.Cut(after, "\n")
	n, err := strconv.ParseInt(kib, 10, 64)
	if err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	t.Logf("%s: %d entries, %d MiB", shape, entries, n>>10)
	return n << 10
}

// TestManyEntries measures two sizes of layers and says what a million entries would
// take; TestMillionEntries takes them.
func TestManyEntries(t *testing.T) {
	if work := os.Getenv(manyEnv); work != "" {
		var shape, dir string
		var entries int
		if _, err := fmt.Sscan(work, &shape, &entries, &dir); err != nil {
			t.Fatal(err)
		}
		if err := ingestMany(shape, entries, dir); err != nil {
			t.Fatal(err)
		}
		return
	}
	program := plainTest(t)
	few, more := int64(50_000), int64(150_000)
	for _, shape := range []string{"tree", "flat"} {
		a, b := peakOf(t, program, shape, int(few)), peakOf(t, program, shape, int(more))
		each := (b - a) / (more - few)
		million := a + (1_000_000-few)*each
		t.Logf("%s: %d bytes an entry, %d MiB for a million", shape, each, million>>20)
		if million > memoryLimit {
			t.Errorf("%s: a million entries take %d MiB", shape, million>>20)
		}
	}
}

func TestMillionEntries(t *testing.T) {
	if os.Getenv("CRICKET_TEST_LONG") == "" {
		t.Skip("takes a minute; CRICKET_TEST_LONG=1 runs it")
	}
	program := plainTest(t)
	for _, shape := range []string{"tree", "flat"} {
		if peak := peakOf(t, program, shape, 1_000_000); peak > memoryLimit {
			t.Errorf("%s: a million entries take %d MiB", shape, peak>>20)
		}
	}
}
