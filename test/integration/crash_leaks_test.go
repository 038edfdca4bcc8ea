package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/harness"
)

// tidy compares a node that has neither pods nor images with itself at an earlier time,
// down to every file below its root and state directories.
type tidy struct {
	node   *Node
	before harness.Snapshot
}

func newTidy(n *Node) (*tidy, error) {
	t := &tidy{node: n}
	var err error
	t.before, err = t.observe()
	return t, err
}

func (t *tidy) observe() (harness.Snapshot, error) {
	return harness.Observe(t.node.Paths.Leases, t.node.Paths.Root, t.node.Paths.State)
}

// check returns an error that lists what the node holds more than before, if that does
// not vanish in time, and what the runtime lists.
func (t *tidy) check(ctx context.Context) error {
	var left []string
	for deadline := time.Now().Add(settleTime()); ; time.Sleep(50 * time.Millisecond) {
		after, err := t.observe()
		if err != nil {
			return err
		}
		left = left[:0]
		for _, l := range t.before.Leaks(after) {
			if !t.node.expected(l) {
				left = append(left, l)
			}
		}
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.before = after // the next check is for what comes after this
			return fmt.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
		}
	}
	return t.listed(ctx)
}

func (t *tidy) listed(ctx context.Context) error {
	pods, err := t.node.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{}, wait)
	containers, err2 := t.node.Runtime.ListContainers(ctx, &cri.ListContainersRequest{}, wait)
	images, err3 := t.node.Images.ListImages(ctx, &cri.ListImagesRequest{}, wait)
	if err := errors.Join(err, err2, err3); err != nil {
		return err
	}
	if len(pods.GetItems())+len(containers.GetContainers())+len(images.GetImages()) > 0 {
		return fmt.Errorf("still listed: %v %v %v", pods, containers, images)
	}
	return nil
}

// fail fails the test with the error, below what the daemon has logged: who shortens a long
// output leaves its end. The next test can begin.
func (t *tidy) fail(tt *testing.T, err error) {
	tt.Helper()
	log := t.node.LogTail(60)
	tt.Errorf("the end of the daemon's log:\n%s\n%v", log, errors.Join(err, t.clear(tt.Context())))
}

// clear takes down what a failed test left, so that the next one can begin.
func (t *tidy) clear(ctx context.Context) error {
	return errors.Join(os.RemoveAll(t.node.Failpoints), t.node.daemon.RemovePods(ctx), t.node.daemon.RemoveImages(ctx))
}
