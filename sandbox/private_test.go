package sandbox_test

import (
	"context"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/sandbox"
)

// Other users of the host reach neither set-uid programs in writable layers nor the
// pipes and the shared memory of pods.
func TestOtherUsersStayOut(t *testing.T) {
	for name, change := range map[string]func(*sandbox.Config){
		"plain":          func(*sandbox.Config) {},
		"user namespace": func(c *sandbox.Config) { c.UserNS = mappings() },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			c := h.config(podID)
			change(&c)
			s := create(t, h, c)
			if _, err := s.NewContainer(context.Background(), containerConfig("c01")); err != nil {
				t.Fatal(err)
			}
			gid := uint32(0)
			if c.UserNS != nil {
				gid = 200000
			}
			for dir, want := range map[string]uint32{
				filepath.Join(h.options.Root, "containers"):         0o700,
				filepath.Join(h.options.Root, "containers", "c01"):  0o700,
				filepath.Join(h.options.State, "containers", "c01"): 0o710,
				filepath.Join(h.options.State, "sandboxes", podID):  0o710,
				filepath.Join(h.options.State, "ns", podID):         0o700,
			} {
				var st unix.Stat_t
				if err := unix.Stat(dir, &st); err != nil || st.Mode&0o777 != want || want == 0o710 && st.Gid != gid {
					t.Errorf("%s: mode %o, group %d, %v", dir, st.Mode&0o777, st.Gid, err)
				}
			}
		})
	}
}
