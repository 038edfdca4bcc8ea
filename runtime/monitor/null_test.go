package monitor

import (
	"errors"
	"os"
	"strconv"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/oci"
)

func owner(t *testing.T, path string) [2]uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return [2]uint32{st.Uid, st.Gid}
}

// What a container can do with its standard input changes nothing of the host.
func TestNull(t *testing.T) {
	f, err := openNull()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Chmod(0o666); !errors.Is(err, syscall.EROFS) {
		t.Errorf("change of the mode: %v", err)
	}
	if _, err := f.WriteString("nothing"); err != nil {
		t.Error(err)
	}
	if n, err := f.Read(make([]byte, 1)); n != 0 {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if again, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), os.O_RDWR, 0); err != nil {
		t.Errorf("open it again: %v", err)
	} else {
		again.Close()
	}
}

// The host's /dev/null stays root's, whoever containers and what is executed in them run as.
func TestNullStaysTheHosts(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		before := owner(t, "/dev/null")
		n := newNode(t, rt)
		req := n.run([]string{"sleep", "3600000"}, func(s *specs.Spec, _ *CreateRequest) { s.Process.User = specs.User{UID: 1234, GID: 1234} })
		if got := owner(t, "/dev/null"); got != before {
			t.Errorf("with a container of user 1234 the host's /dev/null is %v's", got)
		}
		p := payload("say", "", "", "0")
		p.User = specs.User{UID: 1235, GID: 1235}
		if _, err := n.client.Exec(t.Context(), req.ID, ExecRequest{Process: p}, runtime.Streams{}); err != nil {
			t.Error(err)
		}
		if got := owner(t, "/dev/null"); got != before {
			t.Errorf("with an exec of user 1235 the host's /dev/null is %v's", got)
		}
	})
}
