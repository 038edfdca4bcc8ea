package conformance

import (
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cricket-cri/cricket/runtime"
)

// testManyImages runs more images in a pod, one after the other, than a hull may have room
// for at a time: each container sees its own.
func testManyImages(t *testing.T, h *Hull) {
	var images [][]digest.Digest
	for i := range 8 {
		images = append(images, h.Node.derive(t, "which", fmt.Sprintf("image %d\n", i)))
	}
	s := h.pod(t)
	for round := range 2 {
		for i, image := range images {
			c := h.shell(t, fmt.Sprintf("%d-%d", round, i), "cat /which /other/which; touch /written")
			beside := (i + 1) % len(images)
			c.Image, c.Mounts = image, []runtime.Mount{{Destination: "/other", Image: images[beside]}}
			live := start(t, s, c)
			exit := await(t, live)
			want := fmt.Sprintf("stdout F image %d\nstdout F image %d\n", i, beside)
			if got := logged(t, c.LogPath); got != want || exit.Code != 0 {
				t.Errorf("round %d, image %d: %q %+v", round, i, strings.TrimSpace(got), exit)
			}
			if err := live.Remove(limited(t)); err != nil {
				t.Error(err)
			}
		}
	}
}
