package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"
)

// strikesPerLife bounds how many failures one life has, so that what is left behind can
// be laid at somebody's door.
const strikesPerLife = 6

// strikes are the failures of one life: the first of the failpoints strikes, then the
// next if the life still passes it, and so on.
type strikes struct {
	node *Node
	blow blow
	left []string // those that have not struck
	done int
	// armed: a failpoint has been set, and it was not seen yet that it has struck.
	armed bool
	// killed counts machines that died by blows of which between has not heard.
	killed atomic.Int64
	// impossible: the blow cannot be dealt with this guest.
	impossible bool
}

// errDied says that a request's pod has lost its machine, whatever the answer was, errAnew
// that the life is to go on with another pod.
var (
	errDied = errors.New("the pod's machine was killed")
	errAnew = errors.New("another pod is wanted")
)

// during strikes; s.left are then the failpoints that it has not got to.
func (s *strikes) during(ctx context.Context, strike func(*strikes, context.Context) error) error {
	before := len(s.left)
	err := strike(s, ctx)
	switch {
	case errors.Is(err, errNoPanic):
		s.left, s.impossible = nil, true
		return nil
	case len(s.left) == before:
		s.left = s.left[1:]
		return errors.Join(err, errors.New("the failpoint was not passed"))
	}
	return err
}

// arm sets the next failpoint, if there is one for this life.
func (s *strikes) arm() error {
	s.armed = s.done < strikesPerLife && len(s.left) > 0
	if !s.armed {
		return nil
	}
	action := s.blow.name
	if s.blow.do != nil {
		action = "hold"
	}
	return os.WriteFile(s.node.Failpoints, []byte(s.left[0]+"="+action), 0o600)
}

// gone tells whether the failpoint that was armed has struck.
func (s *strikes) gone() bool {
	_, err := os.Stat(s.node.Failpoints)
	return s.armed && errors.Is(err, os.ErrNotExist)
}

// struck is gone, and takes the failpoint from those that are left.
func (s *strikes) struck() bool {
	if !s.gone() {
		return false
	}
	s.armed, s.left, s.done = false, s.left[1:], s.done+1
	return true
}

// inLife strikes while a life is led.
func (s *strikes) inLife(ctx context.Context) error {
	l := newLife(s.node)
	l.mortal = s.blow.do != nil
	l.between = s.between
	if !s.blow.late {
		if err := s.arm(); err != nil {
			return err
		}
	}
	return s.meanwhile(ctx, l.lead)
}

// meanwhile does something while blows are dealt, and daemons that were killed are started
// again.
func (s *strikes) meanwhile(ctx context.Context, do func(context.Context) error) error {
	quit, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		if s.blow.do != nil {
			ended <- s.deal(ctx, quit)
		} else {
			ended <- s.node.revive(ctx, quit)
		}
	}()
	err := errors.Join(do(ctx), os.RemoveAll(s.node.Failpoints))
	close(quit)
	return errors.Join(err, <-ended)
}

func (s *strikes) between(request string, err error) (again bool, fatal error) {
	struck := s.struck()
	if s.killed.Swap(0) > 0 && !slices.Contains([]string{"pull image", "run pod", "stop pod", "remove pod", "remove image"}, request) {
		fatal = errDied
	}
	early := slices.Contains([]string{"pull image", "run pod", "create first"}, request)
	if s.blow.late && !s.armed && !early && fatal == nil || struck && !s.blow.late {
		if err := s.arm(); err != nil {
			return false, err
		}
	}
	switch {
	case fatal != nil:
		return false, fatal
	case err == nil && struck && s.armed && request == "run pod": // nothing was to be repeated
		return false, errAnew
	case err == nil || struck:
		return true, nil
	}
	return false, err // the failure has another cause
}

// deal deals a blow whenever a step is held, until quit is closed. It returns the errors
// of the blows.
func (s *strikes) deal(ctx context.Context, quit <-chan struct{}) (failed error) {
	held := s.node.Failpoints + ".held"
	for {
		select {
		case <-quit:
			return errors.Join(failed, os.RemoveAll(held))
		case <-time.After(2 * time.Millisecond):
		}
		if _, err := os.Lstat(held); err != nil {
			continue
		}
		killed, err := s.blow.do(s.node, ctx)
		s.killed.Add(int64(killed))
		failed = errors.Join(failed, err, os.Remove(held))
	}
}

// startsInARow is how many starts of the daemon may not succeed: a request that waits for
// it can pass the next failpoint before anybody knows that it has started.
const startsInARow = strikesPerLife + 1

// revive starts the daemon whenever it has ended by itself, until quit is closed.
func (n *Node) revive(ctx context.Context, quit <-chan struct{}) error {
	failed := 0
	for last := false; ; {
		if n.daemon.Ended(20 * time.Millisecond) {
			err := n.daemon.Start(ctx)
			if failed++; err == nil {
				failed = 0
			} else if failed == startsInARow {
				return err
			}
			continue
		}
		if last {
			return nil
		}
		select {
		case <-quit:
			last = true // it may just have been killed
		default:
		}
	}
}

// atStart strikes at what a daemon does when it starts, and leads a life after that.
func (s *strikes) atStart(ctx context.Context) error {
	start := s.strikeStarts
	if s.blow.do != nil {
		start = func(ctx context.Context) error { return s.meanwhile(ctx, s.strikeStarts) }
	}
	if err := start(ctx); err != nil {
		return err
	}
	if s.blow.name == "kill" {
		if err := s.restart(ctx); err != nil {
			return err
		}
	}
	return newLife(s.node).lead(ctx)
}

func (s *strikes) strikeStarts(ctx context.Context) error {
	for s.done < strikesPerLife && len(s.left) > 0 {
		if err := s.arm(); err != nil {
			return err
		}
		if err := s.restart(ctx); err != nil {
			return err
		}
		for deadline := time.Now().Add(vmSettle); !s.struck(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				return fmt.Errorf("%s is not passed", s.left[0])
			}
		}
		time.Sleep(aftermath)
	}
	return nil
}

// aftermath is what a daemon is left of what befell it before it is killed for the next
// strike.
const aftermath = 500 * time.Millisecond

// restart ends the daemon, if it has not ended by itself, and starts it. A failpoint may
// kill it before it answers.
func (s *strikes) restart(ctx context.Context) error {
	if err := s.node.daemon.Kill(); err != nil {
		return err
	}
	err := s.node.daemon.Start(ctx)
	if s.blow.name == "kill" && s.gone() {
		return nil
	}
	return err
}
