package oci

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
)

func TestKind(t *testing.T) {
	for text, want := range map[string]error{
		"executable file `/none` not found in $PATH: No such file or directory":                         errdefs.ErrFailedPrecondition,
		"open executable: Operation not permitted":                                                      errdefs.ErrFailedPrecondition,
		"mount `/tmp` to `etc/passwd`: Not a directory":                                                 errdefs.ErrFailedPrecondition,
		`exec failed: unable to start container process: exec: "x": executable file not found in $PATH`: errdefs.ErrFailedPrecondition,
		"writing file `cpuset.cpus`: Numerical result out of range":                                     errdefs.ErrFailedPrecondition,
		"mkdir: No space left on device":                                                                errdefs.ErrResourceExhausted,
		"exit code 1":                                                                                   errdefs.ErrInternal,
	} {
		if got := Kind(text); !errors.Is(got, want) {
			t.Errorf("Kind(%q) = %v, want %v", text, got, want)
		}
	}
}
