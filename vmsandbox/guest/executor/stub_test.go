package executor

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestStubHasItsSource: the source is the one that the stubs were built from, also where no
// compiler could tell.
func TestStubHasItsSource(t *testing.T) {
	sums, err := os.ReadFile("stub/SHA256SUMS")
	must(t, err)
	var now strings.Builder
	for _, name := range []string{"build", "stub.c", "stub_amd64", "stub_arm64"} {
		content, err := os.ReadFile(filepath.Join("stub", name))
		must(t, err)
		fmt.Fprintf(&now, "%x  %s\n", sha256.Sum256(content), name)
	}
	if now.String() != string(sums) {
		t.Errorf("SHA256SUMS differs, go generate builds the stubs again: it has\n%snow they are\n%s", sums, now.String())
	}
}

// TestStubIsBuiltFromItsSource builds the stubs again. Bytes can only be compared with
// those of the same compiler.
func TestStubIsBuiltFromItsSource(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			embedded, err := stubs.ReadFile("stub/stub_" + arch)
			must(t, err)
			dir := t.TempDir()
			built := filepath.Join(dir, "stub")
			if out, err := spawn("stub/build", arch, built); err != nil {
				if strings.Contains(out, "not found") {
					t.Skip("there is no compiler for " + arch)
				}
				t.Fatalf("build: %v: %s", err, out)
			}
			again, err := os.ReadFile(built)
			must(t, err)
			if a, b := compiler(t, embedded), compiler(t, again); a != b {
				t.Skipf("made by %q, here is %q", a, b)
			}
			if !bytes.Equal(embedded, again) {
				t.Error("differs: go generate builds it")
			}
		})
	}
}

// spawn runs a program and returns its output. The monitor of these tests takes its
// exit status: a file tells how it went.
func spawn(args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	out, err := cmd.CombinedOutput()
	if err != nil && strings.Contains(err.Error(), "no child processes") && len(out) == 0 {
		err = nil
	}
	return string(out), err
}

func compiler(t *testing.T, program []byte) string {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(program))
	must(t, err)
	s := f.Section(".comment")
	if s == nil {
		t.Fatal("no compiler is named")
	}
	text, err := s.Data()
	must(t, err)
	return string(bytes.Trim(text, "\x00"))
}
