package integration

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestEveryStepFails makes every step of every flow fail, and kills the process that
// does it there, before its work and after. The steps are those that a whole life of a
// pod passes: nobody lists them. All requests succeed when they are made again, and
// after each of the lives, which have some failures in a row, nothing is left behind.
func TestEveryStepFails(t *testing.T) {
	n := Start(t)
	if err := newLife(n).lead(t.Context()); err != nil {
		t.Fatalf("a life without failures: %v", err)
	}
	points := n.passed()
	if len(points) < 40 {
		t.Fatalf("the life passed only %d failpoints: %v", len(points), points)
	}
	tidy, err := newTidy(n)
	if err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{"error", "kill"} {
		for left := points; len(left) > 0; {
			armed := left
			t.Run(left[0]+"="+action, func(t *testing.T) {
				var err error
				if left, err = n.strike(t, armed, action); err != nil {
					t.Error(err)
				}
				if err := tidy.check(t.Context()); err != nil {
					t.Error(err)
				}
				t.Logf("struck: %v", armed[:len(armed)-len(left)])
				if t.Failed() {
					t.Logf("the end of the daemon's log:\n%s", n.LogTail(30))
					if err := tidy.clear(t.Context()); err != nil {
						t.Log(err)
					}
				}
			})
		}
	}
}

// passed lists the failpoints that were passed since the node started, each once.
func (n *Node) passed() []string {
	n.t.Helper()
	text, err := os.ReadFile(n.Failpoints + ".seen")
	if err != nil {
		n.t.Fatal(err)
	}
	var points []string
	seen := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if point := strings.TrimSpace(line); !seen[point] {
			seen[point] = true
			points = append(points, point)
		}
	}
	return points
}

// strikesPerLife bounds how many failures one life has, so that what is left behind can
// be laid at somebody's door.
const strikesPerLife = 6

// strike leads a life in which the first of the failpoints strikes, then the next if
// the life still passes it, and so on. It returns those that are left.
func (n *Node) strike(t *testing.T, points []string, action string) (left []string, err error) {
	l := newLife(n)
	left = points
	arm := func() error { return os.WriteFile(n.Failpoints, []byte(left[0]+"="+action), 0o600) }
	struck := func() bool {
		_, err := os.Stat(n.Failpoints)
		return errors.Is(err, os.ErrNotExist)
	}
	l.between = func(_ string, err error) (bool, error) {
		if err == nil && !struck() {
			return false, nil
		}
		if struck() && len(points)-len(left) < strikesPerLife && len(left) > 0 {
			left = left[1:]
			if len(left) > 0 && len(points)-len(left) < strikesPerLife {
				if err := arm(); err != nil {
					return false, err
				}
			}
		} else if !struck() {
			return false, err // the failure has another cause
		}
		if err == nil {
			return false, nil // it was mended without the client's help
		}
		if action == "kill" && status.Code(err) == codes.Unavailable && n.Crashed(300*time.Millisecond) {
			return true, n.daemon.Start(t.Context())
		}
		return true, nil
	}
	if err := arm(); err != nil {
		return left, err
	}
	err = l.lead(t.Context())
	if len(left) == len(points) {
		left, err = left[1:], errors.Join(err, errors.New("the failpoint was not passed"))
	}
	return left, errors.Join(err, os.RemoveAll(n.Failpoints))
}
