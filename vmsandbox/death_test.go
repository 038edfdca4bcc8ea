package vmsandbox

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
)

// A machine that dies on the way is why a pod cannot be had, whatever fails first, and the
// request may be made again.
func TestMachineDiesDuringCreate(t *testing.T) {
	for _, call := range []string{"add network", "cross netns eth0", "connect eth0"} {
		w := newWorld(t)
		w.failing, w.deadly = call, call
		_, err := w.driver().Create(t.Context(), podConfig(t))
		if !errdefs.IsUnavailable(err) || !errors.Is(err, errBroken) {
			t.Errorf("%s: error = %v", call, err)
		}
		if left := w.left(); len(left) > 0 {
			t.Errorf("%s: left behind: %v", call, left)
		}
	}
}
