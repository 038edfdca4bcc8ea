package seccomp

import (
	"reflect"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestProgramFile(t *testing.T) {
	f := &Filter{Flags: 3, Program: []unix.SockFilter{{Code: 0x20, K: 4}, {Code: 0x15, Jt: 1, Jf: 2, K: 0xc000003e}, {Code: 6, K: unix.SECCOMP_RET_ALLOW}}}
	got, err := Parse(f.Bytes())
	if err != nil || !reflect.DeepEqual(got, f) {
		t.Errorf("parsed %+v, %v, want %+v", got, err, f)
	}
	long := &Filter{Program: make([]unix.SockFilter, maxProgram+1)}
	for name, b := range map[string][]byte{"nothing": nil, "flags alone": f.Bytes()[:4], "torn": f.Bytes()[:27], "too long": long.Bytes()} {
		if _, err := Parse(b); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
