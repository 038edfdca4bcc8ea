package integration

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestKillsAtRandom leads one life after the other while the daemon is killed at random
// moments and started again, then the same with the monitor killed too.
// CRICKET_TEST_SEED repeats a run as far as time can be repeated.
func TestKillsAtRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("CRICKET_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("CRICKET_TEST_SEED=%d", seed)
	n := Start(t)
	if err := newLife(n).lead(t.Context()); err != nil {
		t.Fatalf("a life without kills: %v", err)
	}
	tidy, err := newTidy(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("daemon", func(t *testing.T) {
		n.killAtRandom(t, tidy, 100, &killer{node: n, random: rand.New(rand.NewPCG(seed, 0))})
	})
	lives := 25
	if os.Getenv(longEnv) != "" {
		lives = 200
	}
	t.Run("monitor", func(t *testing.T) {
		n.killAtRandom(t, tidy, lives, &killer{node: n, random: rand.New(rand.NewPCG(seed, 1)), monitor: true})
	})
}

// longEnv asks for the long variants of tests.
const longEnv = "CRICKET_TEST_LONG"

func (n *Node) killAtRandom(t *testing.T, tidy *tidy, lives int, k *killer) {
	quit, killed := make(chan struct{}), make(chan error)
	go func() { killed <- k.run(t.Context(), quit) }()
	for i := range lives {
		l := newLife(n)
		// Whose monitor and daemon die together cannot know every exit code.
		l.unknownExit = k.monitor
		l.between = func(_ string, err error) (bool, error) {
			// What the daemon was doing when it died is answered in one of these ways.
			return status.Code(err) == codes.Unavailable || status.Code(err) == codes.Canceled, nil
		}
		if err := l.lead(t.Context()); err != nil {
			t.Errorf("life %d: %v", i, err)
			break
		}
	}
	close(quit)
	if err := <-killed; err != nil {
		t.Error(err)
	}
	t.Logf("%d kills in %d lives", k.kills, lives)
	if k.kills < lives/5 {
		t.Errorf("that is too rare to prove anything")
	}
	if err := tidy.check(t.Context()); err != nil {
		t.Error(err)
	}
	if t.Failed() {
		t.Logf("the end of the daemon's log:\n%s", n.LogTail(60))
		if err := tidy.clear(t.Context()); err != nil {
			t.Log(err)
		}
	}
}

// killer kills at random moments.
type killer struct {
	node    *Node
	random  *rand.Rand
	monitor bool // kills the monitor, the daemon or both; else the daemon
	kills   int
}

// run kills and starts again until quit is closed.
func (k *killer) run(ctx context.Context, quit <-chan struct{}) error {
	for {
		select {
		case <-quit:
			return nil
		case <-time.After(time.Duration(k.random.IntN(1000)) * time.Millisecond):
		}
		victim := 1
		if k.monitor {
			victim = k.random.IntN(3)
		}
		if victim != 1 { // there may be none at the moment
			if pid, err := k.node.monitor(); err == nil {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		k.kills++
		if victim == 0 {
			continue
		}
		if err := k.node.daemon.Kill(); err != nil {
			return err
		}
		if err := k.node.daemon.Start(ctx); err != nil {
			return err
		}
	}
}
