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
// pod passes: nobody lists them. Each time all requests succeed when they are made
// again, and nothing is left behind.
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
	for _, point := range points {
		for _, action := range []string{"error", "kill"} {
			t.Run(point+"="+action, func(t *testing.T) {
				if err := n.strike(t, point, action); err != nil {
					t.Error(err)
				}
				if err := tidy.check(t.Context()); err != nil {
					t.Error(err)
				}
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

// strike leads a life in which one failpoint strikes.
func (n *Node) strike(t *testing.T, point, action string) error {
	if err := os.WriteFile(n.Failpoints, []byte(point+"="+action), 0o600); err != nil {
		return err
	}
	l := newLife(n)
	deaths := 0
	l.between = func(request string, err error) (bool, error) {
		if err == nil {
			return false, nil
		}
		if _, statErr := os.Stat(n.Failpoints); statErr == nil {
			return false, err // nothing has struck yet: the failure has another cause
		}
		if action == "kill" && status.Code(err) == codes.Unavailable && n.Crashed(300*time.Millisecond) {
			deaths++
			return true, n.daemon.Start(t.Context())
		}
		if action == "error" && !strings.Contains(err.Error(), "failpoint") {
			return false, err
		}
		return true, nil
	}
	err := l.lead(t.Context())
	if _, statErr := os.Stat(n.Failpoints); statErr == nil {
		return errors.Join(err, errors.New("the failpoint was not passed"), os.Remove(n.Failpoints))
	}
	return err
}
