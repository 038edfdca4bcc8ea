package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/harness"
)

// TestEphemeralStorage: a container that writes more than its limit is evicted, whether
// it writes files of its own or its log.
func TestEphemeralStorage(t *testing.T) {
	onHulls(t, func(e *env) {
		// The kubelet cuts logs at 1 MiB, compresses and keeps a few: what cannot be compressed
		// stays above the limit.
		for _, c := range []struct{ name, command, limit string }{
			{"files", "head -c 24m /dev/zero > /file; sync; sleep 3600", "12Mi"},
			{"log", "while :; do head -c 64k /dev/urandom | base64; done", "2Mi"},
		} {
			e.pod(c.name, `
containers:
  - name: app
    image: BUSYBOX
    command: [sh, -c, "`+c.command+`"]
    resources: {limits: {ephemeral-storage: `+c.limit+`}}
`)
		}
		for _, name := range []string{"files", "log"} {
			if p := e.ended(name); p.Status.Reason != "Evicted" || !strings.Contains(p.Status.Message, "ephemeral local storage") {
				e.t.Errorf("pod %s ended because of %s: %s", name, p.Status.Reason, p.Status.Message)
			}
		}
	})
}

// collectPeriod is how often a kubelet looks whether images take too much of the disk, but
// for the first time, when it knows nothing of the disk yet.
const collectPeriod = 5 * time.Minute

// collectAlways is a kubelet's configuration by which images take too much of the disk.
func collectAlways() (string, error) {
	var disk unix.Statfs_t
	if err := unix.Statfs(harness.Dir(), &disk); err != nil {
		return "", err
	}
	half := (100 - int(disk.Bavail*100/disk.Blocks)) / 2
	return fmt.Sprintf("imageGCHighThresholdPercent: %d\nimageGCLowThresholdPercent: %d\nimageMinimumGCAge: 1s", max(half, 1), max(half-1, 0)), nil
}

// TestDiskPressure: when the disk is nearly full, unused images go, and then the pod that has
// written the most; the others stay, and the pressure is over.
func TestDiskPressure(t *testing.T) {
	onHullsAlone(t, func(e *env) {
		unused := e.unused()
		e.pod("small", idle)
		before := e.ready("small")
		// What others do to the disk meanwhile must not decide.
		const spare, more = 512 << 20, 1 << 30
		var disk unix.Statfs_t
		e.ok(unix.Statfs(harness.Dir(), &disk))
		free := int64(disk.Bavail) * disk.Bsize
		// No image goes without pressure: see collectAlways.
		e.configure(fmt.Sprintf("evictionHard: {nodefs.available: '%d', imagefs.available: '%d'}\nevictionPressureTransitionPeriod: 5s\n"+
			"imageGCHighThresholdPercent: 100\nimageGCLowThresholdPercent: 99", free-spare, free-spare))
		if e.absent(unused) == nil {
			e.t.Error("the image has gone before there was pressure")
		}
		e.pod("big", "containers: [{name: app, image: BUSYBOX, command: [sh, -c, 'head -c "+fmt.Sprint(more)+" /dev/zero > /file; sync; sleep 3600']}]")
		p := e.ended("big")
		if p.Status.Reason != "Evicted" || !strings.Contains(p.Status.Message, "low on resource: ephemeral-storage") {
			e.t.Errorf("it ended because of %s: %s", p.Status.Reason, p.Status.Message)
		}
		if err := e.absent(unused); err != nil {
			e.t.Error(err)
		}
		e.eventually("there is no pressure", func() error {
			if c := e.condition(corev1.NodeDiskPressure); c.Status != corev1.ConditionFalse {
				return fmt.Errorf("it says %s", c.Message)
			}
			return nil
		})
		e.untouched(before, e.get("small"))
	})
}

// TestImageCollection: when the disk is fuller than it may be, which it always is here,
// images that nobody uses go, and those of pods stay. There is one store of images for both
// hulls. The kubelet collects what it has seen when it started: it is started here, before
// the tests that run beside each other.
func TestImageCollection(t *testing.T) {
	e := newEnv(t, oneHull())
	unused := e.unused()
	used := "example.com/used/" + e.ns + ":1" // of its own: what others use may be pulled again
	e.publish(used, v1.Config{Labels: map[string]string{"of": e.ns}})
	e.pod("user", "containers: [{name: app, image: '"+used+"', command: [sleep, '3600']}]")
	e.ready("user")
	e.ok(e.RestartKubelet())
	t.Parallel()
	e.within(collectPeriod+patience, "the unused image goes", func() error { return e.absent(unused) })
	if e.absent(used) == nil {
		e.t.Error("an image that is in use has gone too")
	}
}

// configure changes the kubelet's configuration for this test.
func (e *env) configure(fields string) {
	e.t.Helper()
	e.ok(e.ConfigureKubelet(fields))
	e.t.Cleanup(func() { e.ok(e.ConfigureKubelet("")) })
}

// unused is an image that the node has and that no container uses.
func (e *env) unused() string {
	e.t.Helper()
	image := e.words().Replace("NGINX")
	e.withImages(func(c cri.ImageServiceClient) {
		_, err := c.PullImage(e.t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}})
		e.ok(err)
	})
	return image
}

// absent is nil if the node does not have the image.
func (e *env) absent(image string) (err error) {
	e.t.Helper()
	e.withImages(func(c cri.ImageServiceClient) {
		s, callErr := c.ImageStatus(e.t.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: image}})
		if err = callErr; err == nil && s.GetImage() != nil {
			err = errors.New("image " + image + " is there")
		}
	})
	return err
}

func (e *env) withImages(use func(cri.ImageServiceClient)) {
	e.t.Helper()
	conn, err := e.Runtime.Dial()
	e.ok(err)
	defer conn.Close()
	use(cri.NewImageServiceClient(conn))
}
