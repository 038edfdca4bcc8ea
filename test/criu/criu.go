// Package criu installs CRIU from Debian's packages beside the machine's own programs, in
// a version that works with the kernel at hand and in one that need not.
package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// The releases of Debian whose package is installed.
const (
	// Old has CRIU 3.17.1, which does not know the vDSO of Linux 6.13 and later.
	Old = "bookworm"
	// New has CRIU 4.1.1.
	New = "trixie"
)

// wrapper runs the program with the libraries that it was built for. Fault 130 is CRIU's
// own switch to go without hardware breakpoints, which not every virtual machine has:
// there CRIU would wait for one for ever.
const wrapper = `#!/bin/sh
export CRIU_FAULT=130
exec %[1]s/usr/lib64/ld-linux-x86-64.so.2 --library-path %[1]s/usr/lib/x86_64-linux-gnu %[1]s/usr/sbin/criu "$@"
`

// Install unpacks the package of a release and what it depends on into the cache, unless
// it is there, and returns the path of a program called criu. It needs mmdebstrap, and the
// network only when it installs.
func Install(ctx context.Context, cache, release string, say func(string, ...any)) (string, error) {
	dir, err := filepath.Abs(filepath.Join(cache, "criu", release))
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "bin", "criu")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	say("install Debian's CRIU of %s into %s", release, dir)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(filepath.Dir(program), 0o755)); err != nil {
		return "", err
	}
	root := filepath.Join(dir, "root")
	out, err := exec.CommandContext(ctx, "mmdebstrap", "--quiet", "--variant=extract", "--include=criu", release, root).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("install CRIU of Debian %s: %w\n%s", release, err, out)
	}
	// Last: it says that the rest is whole.
	return program, os.WriteFile(program, fmt.Appendf(nil, wrapper, root), 0o755)
}

// Instead writes a program called criu into dir that runs script, a part of a shell
// script, before the one at path, and returns its path.
func Instead(dir, path, script string) (string, error) {
	program := filepath.Join(dir, "criu")
	return program, os.WriteFile(program, fmt.Appendf(nil, "#!/bin/sh\n%s\nexec %s \"$@\"\n", script, path), 0o755)
}
