package monitor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// child is a program of the host under supervision, a virtual machine's say.
type child struct {
	srv *Server
	// settled is closed when the program runs or its start has failed.
	settled chan struct{}
	exited  chan struct{}

	mu      sync.Mutex
	rec     childRecord
	pidfd   *os.File // nil when the process is gone
	output  *pump    // nil if nothing is read
	deleted bool
}

// childRecord is what a later monitor needs to take a child over.
type childRecord struct {
	Request SpawnRequest `json:"request"`
	life
}

const (
	childSuffix = ".process.json"
	// childFIFO is what a child has for standard output and error. It is how a child is
	// found whose monitor died before it had noted the process id.
	childFIFO = ".process.fifo"
)

func (s *Server) newChild(rec childRecord) *child {
	return &child{srv: s, rec: rec, settled: make(chan struct{}), exited: make(chan struct{})}
}

// findChild returns a child whose start is over, or nil.
func (s *Server) findChild(id string) *child {
	s.mu.Lock()
	p := s.children[id]
	s.mu.Unlock()
	if p == nil {
		return nil
	}
	select {
	case <-p.settled:
		return p
	default:
		return nil
	}
}

func (p *child) id() string { return p.rec.Request.ID } // never changes

func (p *child) state() runtime.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rec.state()
}

func (p *child) save() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.deleted {
		return nil
	}
	return p.srv.shelf.save(p.id(), childSuffix, p.rec)
}

func (p *child) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func (p *child) wait(ctx context.Context) (runtime.Exit, error) {
	select {
	case <-p.exited:
		return p.state().Exit, nil
	case <-ctx.Done():
		return runtime.Exit{}, ctx.Err()
	}
}

// watch settles the child when it ends: our own, or one that an earlier monitor
// fathered if ended is nil.
func (p *child) watch(ended <-chan status) {
	pidfd := p.pidfd
	go func() {
		if ended == nil {
			p.settle(adoptedExit(pidfd))
			return
		}
		st := <-ended
		p.settle(runtime.Exit{Code: st.code, At: st.at})
	}()
}

// settle makes the end known: output first, then the exit.
func (p *child) settle(exit runtime.Exit) {
	p.mu.Lock()
	output := p.output
	p.mu.Unlock()
	if output != nil {
		output.drain()
		output.stop() // what the child left behind is not its output
	}
	p.mu.Lock()
	p.rec.Phase, p.rec.Exit = runtime.Exited, exit
	closeAll(&p.pidfd)
	p.mu.Unlock()
	if err := p.save(); err != nil {
		p.srv.log.Warn("save exit", slog.String("process", p.id()), slog.Any("error", err))
	}
	close(p.exited)
}

// signal sends sig; SIGKILL ends its descendants and its session too.
func (p *child) signal(sig unix.Signal) error {
	p.mu.Lock()
	pidfd, root := p.pidfd, p.rec.Init
	p.mu.Unlock()
	if pidfd == nil {
		return nil
	}
	if sig == unix.SIGKILL {
		// While it is not reaped its number, which is the session's too, is nobody else's.
		if st, err := readProc(root.Pid); err == nil && st.start == root.StartTime {
			if err := killTree(root, root.Pid, cgroupOf(root.Pid)); err != nil {
				return fmt.Errorf("signal process: %w", err)
			}
		}
		return nil
	}
	if err := sendSignal(pidfd, sig); err != nil {
		return fmt.Errorf("signal process: %w", err)
	}
	return nil
}

// remove ends the child and forgets it. The record goes last.
func (p *child) remove(ctx context.Context) error {
	<-p.settled
	s := p.srv
	s.mu.Lock()
	known := s.children[p.id()] == p
	s.mu.Unlock()
	if !known { // its start has failed
		return nil
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
	defer cancel()
	if _, err := p.wait(ctx); err != nil {
		return fmt.Errorf("wait for the end of a killed process: %w", err)
	}
	p.mu.Lock()
	p.deleted = true
	p.mu.Unlock()
	if err := s.forgetChild(p.id()); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.children, p.id())
	s.mu.Unlock()
	return nil
}

// adoptChildren takes over what earlier monitors had started.
func (s *Server) adoptChildren(records []childRecord, roots map[Created]root) {
	for _, r := range records {
		if err := s.adoptChild(r, roots[r.Init]); err != nil {
			s.log.Warn("adopt", slog.String("process", r.Request.ID), slog.Any("error", err))
		}
	}
}

func (s *Server) adoptChild(r childRecord, found root) error {
	id := r.Request.ID
	if r.Boot != s.boot {
		return s.forgetChild(id) // it ended with its kernel
	}
	if r.Init.Pid == 0 { // nobody was told of it
		if err := s.endUntold(id); err != nil {
			return err
		}
		return s.forgetChild(id)
	}
	p := s.newChild(r)
	close(p.settled)
	s.children[id] = p
	if r.Phase == runtime.Exited {
		close(p.exited)
		return nil
	}
	outputErr := p.openOutput() // without it the child goes on all the same
	if found.pidfd == nil {
		p.settle(runtime.Exit{Code: -1, Unknown: true, At: time.Now()})
		return outputErr
	}
	p.pidfd = found.pidfd
	p.watch(found.ended)
	return outputErr
}

// pack stops reading. The FIFO keeps what comes until the next program reads on.
func (p *child) pack() {
	if _, err := readProc(p.rec.Init.Pid); err != nil && p.running() {
		select { // its end has been reaped: nobody will know it but us
		case <-p.exited:
		case <-time.After(quietTime):
		}
	}
	p.mu.Lock()
	output := p.output
	p.mu.Unlock()
	if output != nil {
		output.halt()
	}
}
