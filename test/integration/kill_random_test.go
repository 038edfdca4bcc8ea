package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cricket-cri/cricket/test/harness"
)

// TestKillsAtRandom leads one life after the other while the daemon is killed at random
// moments and started again, then the same with the monitor killed too. Where pods are
// virtual machines, these and their kernels die as well.
// CRICKET_TEST_SEED repeats a run as far as time can be repeated.
func TestKillsAtRandom(t *testing.T) {
	seed, err := harness.Seed()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s=%d", harness.SeedEnv, seed)
	n := Start(t)
	if err := newLife(n).lead(t.Context()); err != nil {
		t.Fatalf("a life without kills: %v", err)
	}
	tidy, err := newTidy(n)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range sprees(os.Getenv(longEnv) != "") {
		t.Run(s.name, func(t *testing.T) {
			n.killAtRandom(t, tidy, s.lives, &killer{node: n, random: rand.New(rand.NewPCG(seed, uint64(i))), spree: s})
		})
	}
}

// spree is a number of lives with kills.
type spree struct {
	name  string
	lives int
	// pause is the longest time between two kills.
	pause time.Duration
	// victims have the same chance to be killed.
	victims []func(*killer, context.Context) error
}

func sprees(long bool) []spree {
	monitors := []func(*killer, context.Context) error{
		(*killer).killMonitor, (*killer).killDaemon,
		func(k *killer, ctx context.Context) error { return errors.Join(k.killMonitor(ctx), k.killDaemon(ctx)) },
	}
	lives := func(short int) int {
		if long {
			return 200
		}
		return short
	}
	if InVMs() { // where a daemon that starts has more to do before the next pod
		machines := slices.Repeat([]func(*killer, context.Context) error{(*killer).killMachine, (*killer).panicGuest}, 2)
		return []spree{{"machine", lives(20), 8 * time.Second, append(machines, monitors...)}}
	}
	return []spree{
		{"daemon", 100, time.Second, monitors[1:2]},
		{"monitor", lives(25), time.Second, monitors},
	}
}

// longEnv asks for the long variants of tests.
const longEnv = "CRICKET_TEST_LONG"

func (n *Node) killAtRandom(t *testing.T, tidy *tidy, lives int, k *killer) {
	quit, killed := make(chan struct{}), make(chan error)
	go func() { killed <- k.run(t.Context(), quit) }()
	deaths, err := k.leadLives(t.Context(), lives, tidy)
	close(quit)
	err = errors.Join(err, <-killed)
	t.Logf("%d kills in %d lives, %d pods have lost their machine", k.kills, lives, deaths)
	if k.kills < lives/5 {
		err = errors.Join(err, errors.New("that is too rare to prove anything"))
	}
	if err != nil {
		tidy.fail(t, err)
	}
}

// leadLives leads one life after the other beside kills, and counts the pods that have lost
// their machine. Each has to leave nothing behind, whatever was killed at its end.
func (k *killer) leadLives(ctx context.Context, lives int, tidy *tidy) (deaths int, err error) {
	for i := range lives {
		l := k.newLife()
		if err := l.lead(ctx); err != nil {
			return deaths, fmt.Errorf("life %d: %w", i, err)
		}
		deaths += l.deaths
		if InVMs() && i < lives-1 {
			continue // a template that is made anew takes longer than a life
		}
		if err := k.rest(func() error { return tidy.check(ctx) }); err != nil {
			return deaths, fmt.Errorf("after life %d: %w", i, err)
		}
	}
	return deaths, nil
}

func (k *killer) newLife() *life {
	l := newLife(k.node)
	// Whose monitor and daemon die together cannot know every exit code.
	l.unknownExit = len(k.spree.victims) > 1
	l.mortal = InVMs()
	l.between = func(_ string, err error) (bool, error) {
		// What the daemon was doing when it died is answered in one of these ways.
		return status.Code(err) == codes.Unavailable || status.Code(err) == codes.Canceled, nil
	}
	return l
}

// killer kills at random moments.
type killer struct {
	node   *Node
	random *rand.Rand
	spree  spree
	kills  int
	// busy is held while something is dead.
	busy sync.Mutex
}

// rest runs do while everything lives.
func (k *killer) rest(do func() error) error {
	k.busy.Lock()
	defer k.busy.Unlock()
	return do()
}

// run kills and starts again until quit is closed.
func (k *killer) run(ctx context.Context, quit <-chan struct{}) error {
	for {
		select {
		case <-quit:
			return nil
		case <-time.After(time.Duration(k.random.Int64N(int64(k.spree.pause)))):
		}
		victim := k.spree.victims[k.random.IntN(len(k.spree.victims))]
		if err := k.rest(func() error { return victim(k, ctx) }); err != nil {
			return err
		}
		k.kills++
	}
}

// killMonitor kills the monitor; there may be none at the moment.
func (k *killer) killMonitor(context.Context) error {
	if pid, err := k.node.Paths.MonitorPid(); err == nil {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	return nil
}

func (k *killer) killDaemon(ctx context.Context) error {
	if err := k.node.daemon.Kill(); err != nil {
		return err
	}
	return k.node.daemon.Start(ctx)
}

// killMachine kills a machine, whether it is a pod's or on its way.
func (k *killer) killMachine(context.Context) error {
	pids, err := machinePids()
	if err != nil || len(pids) == 0 {
		return err
	}
	if err := unix.Kill(pids[k.random.IntN(len(pids))], unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill machine: %w", err)
	}
	return nil
}

// panicGuest lets the kernel of a pod panic, if a container runs in one. It may end before
// it has been told.
func (k *killer) panicGuest(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err := k.node.panicGuest(ctx)
	if _, ok := status.FromError(err); ok || errors.Is(err, errNoPanic) {
		return nil
	}
	return err
}
