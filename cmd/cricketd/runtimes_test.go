package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cricket-cri/cricket/runtime/oci"
)

// program writes a stand-in for an OCI runtime that prints text for --version and knows
// no other command.
func program(t *testing.T, name, text string) oci.Runtime {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	script := "#!/bin/sh\n[ \"$1\" = --version ] || exit 1\ncat <<'X'\n" + text + "\nX\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return oci.Runtime{Name: name, Path: path}
}

func TestDefaultRuntime(t *testing.T) {
	able := program(t, "able", "crun version 1.8.1\n+SECCOMP")
	old := program(t, "old", "crun version 1.5\n+SECCOMP")
	bare := program(t, "bare", "crun version 1.8.1")
	for _, test := range []struct {
		name, wanted string
		found        map[string]oci.Runtime
		want, err    string
	}{
		{name: "none", err: "no OCI runtime is installed"},
		{name: "crun first", found: map[string]oci.Runtime{"runc": able, "crun": able}, want: "crun"},
		{name: "crun is too old", found: map[string]oci.Runtime{"runc": able, "crun": old}, want: "runc"},
		{name: "crun without seccomp", found: map[string]oci.Runtime{"runc": able, "crun": bare}, want: "runc"},
		{name: "others come last", found: map[string]oci.Runtime{"a": able, "runc": able}, want: "runc"},
		{name: "none is able", found: map[string]oci.Runtime{"crun": old, "runc": bare}, want: "crun"},
		{name: "wanted", wanted: "runc", found: map[string]oci.Runtime{"runc": old, "crun": able}, want: "runc"},
		{name: "wanted and missing", wanted: "youki", found: map[string]oci.Runtime{"crun": able}, err: `"youki" is not installed`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := defaultRuntime(t.Context(), test.wanted, test.found, slog.New(slog.DiscardHandler))
			if got != test.want {
				t.Errorf("default = %q, want %q", got, test.want)
			}
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("error = %v, want %q", err, test.err)
			}
		})
	}
}

func TestLacks(t *testing.T) {
	got := lacks(oci.Features{Seccomp: true})
	want := []string{"id-mapped mounts", "recursive read-only mounts", "user namespaces"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("lacks = %q, want %q", got, want)
	}
}
