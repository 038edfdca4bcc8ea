package integration

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// cycles is how many lives TestKillsAtRandom leads.
const cycles = 100

// TestKillsAtRandom leads one life after the other while the daemon is killed at random
// moments and started again. CRICKET_TEST_SEED repeats a run as far as time can be
// repeated.
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
	quit, killed := make(chan struct{}), make(chan int)
	go func() { killed <- killer(t, n, rand.New(rand.NewPCG(seed, 0)), quit) }()
	for i := range cycles {
		l := newLife(n)
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
	kills := <-killed
	t.Logf("the daemon was killed %d times in %d lives", kills, cycles)
	if kills < cycles/5 {
		t.Errorf("that is too rare to prove anything")
	}
	if err := tidy.check(t.Context()); err != nil {
		t.Error(err)
	}
}

// killer kills the daemon and starts it again until quit is closed, and returns how
// often it did.
func killer(t *testing.T, n *Node, random *rand.Rand, quit <-chan struct{}) (kills int) {
	for {
		select {
		case <-quit:
			return kills
		case <-time.After(time.Duration(random.IntN(1000)) * time.Millisecond):
		}
		if err := n.daemon.Kill(); err != nil {
			t.Error(err)
			return kills
		}
		kills++
		if err := n.daemon.Start(t.Context()); err != nil {
			t.Error(err)
			return kills
		}
	}
}
