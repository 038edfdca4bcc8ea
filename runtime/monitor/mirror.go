package monitor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
)

// mirror brings the log of a container in a guest into a file of the host.
type mirror struct {
	srv     *Server
	channel *channel

	mu      sync.Mutex
	rec     mirrorRecord
	file    *mirrorFile
	filter  lineFilter
	warned  bool
	stop    context.CancelFunc
	stopped chan struct{} // its goroutine has ended
	done    chan struct{} // the end is known; rec says which
}

// mirrorRecord is what a later monitor needs to go on, besides the position.
type mirrorRecord struct {
	Request MirrorRequest `json:"request"`
	Boot    string        `json:"boot"`
	// Done: all of the log is in the file, or Lost says why it never will be.
	Done bool   `json:"done,omitempty"`
	Lost string `json:"lost,omitempty"`
}

const (
	mirrorSuffix   = ".mirror.json"
	positionSuffix = ".mirror.position"
)

func checkMirror(r MirrorRequest) error {
	switch {
	case !validID(r.ID):
		return fmt.Errorf("check id: %w", errdefs.ErrInvalidArgument)
	case !filepath.IsAbs(r.Socket) || !filepath.IsAbs(r.LogPath):
		return fmt.Errorf("check paths: socket or log is not absolute: %w", errdefs.ErrInvalidArgument)
	case r.From < 0:
		return fmt.Errorf("check beginning of log: negative: %w", errdefs.ErrInvalidArgument)
	case r.MaxBytes < 0 || r.MaxRate < 0 || r.MaxLogLine < 0:
		return fmt.Errorf("check limits: negative: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// mirror starts to mirror a log. The same request again is no error.
func (s *Server) mirror(r MirrorRequest) error {
	if err := checkMirror(r); err != nil {
		return err
	}
	s.mirroring.Lock() // few, and short
	defer s.mirroring.Unlock()
	s.mu.Lock()
	m, known := s.mirrors[r.ID]
	taken := s.taken(r.ID)
	s.mu.Unlock()
	if known && m.rec.Request == r {
		return nil
	}
	if taken {
		return fmt.Errorf("mirror log: %w", errdefs.ErrAlreadyExists)
	}
	m, err := s.newMirror(mirrorRecord{Request: r, Boot: s.boot})
	if err != nil {
		return err
	}
	if err := s.shelf.save(r.ID, mirrorSuffix, m.rec); err != nil {
		m.file.end()
		return errors.Join(err, s.forgetMirror(r.ID))
	}
	s.begun(m)
	return nil
}

// findMirror returns a mirror, or nil.
func (s *Server) findMirror(id string) *mirror {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mirrors[id]
}

func (s *Server) newMirror(rec mirrorRecord) (*mirror, error) {
	r := rec.Request
	file, err := openMirrorFile(r.LogPath, filepath.Join(s.shelf.dir, r.ID+positionSuffix), r.MaxBytes)
	if err != nil {
		return nil, err
	}
	return &mirror{srv: s, rec: rec, file: file, filter: newLineFilter(r.MaxLogLine), stopped: make(chan struct{}), done: make(chan struct{})}, nil
}

// begun lets a mirror run.
func (s *Server) begun(m *mirror) {
	ctx, stop := context.WithCancel(context.Background()) // until it is deleted
	m.stop = stop
	s.mu.Lock()
	s.mirrors[m.rec.Request.ID] = m
	s.mu.Unlock()
	if m.rec.Done {
		m.file.end()
		close(m.done)
		close(m.stopped)
		return
	}
	m.channel = s.acquire(m.rec.Request.Socket)
	if m.rec.Request.MaxRate > 0 {
		m.channel.budget.set(m.rec.Request.MaxRate)
	}
	go m.run(ctx)
}

// run goes on over sessions until the log has ended or the guest is gone.
func (m *mirror) run(ctx context.Context) {
	defer close(m.stopped)
	defer m.srv.leave(m.channel)
	client := NewClient(m.channel.open)
	for pause := shortPause; ; pause = min(2*pause, longPause) {
		began := time.Now()
		err := m.read(ctx, client)
		if ctx.Err() != nil {
			return
		}
		if lost, over := verdict(err); over {
			m.finish(lost)
			return
		}
		m.srv.log.Debug("mirror log", slog.String("container", m.rec.Request.ID), slog.Any("error", err))
		if time.Since(began) > steadyTime {
			pause = shortPause
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// read mirrors for one session. Nothing that a guest sends may take the monitor along.
func (m *mirror) read(ctx context.Context, client *Client) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("mirror log: %v: %w", v, errdefs.ErrInternal)
		}
	}()
	m.mu.Lock()
	r := m.rec.Request
	from := max(m.file.next(), r.From)
	m.filter.broken = false
	m.mu.Unlock()
	return client.Log(ctx, LogRequest{ID: cmp.Or(r.Name, r.ID), Offset: from}, func(at int64, p []byte) error {
		if err := m.channel.budget.take(ctx, len(p)); err != nil {
			return err
		}
		return m.take(at, p)
	})
}

// verdict says whether a mirror is over, and if it is, why it is not complete.
func verdict(err error) (lost string, over bool) {
	var remote *remoteError
	switch {
	case err == nil:
		return "", true
	case errors.Is(err, errGone):
		return err.Error(), true
	case !errors.As(err, &remote):
		return "", false
	}
	for _, final := range []error{errdefs.ErrNotFound, errdefs.ErrFailedPrecondition, errdefs.ErrInvalidArgument, errdefs.ErrNotImplemented} {
		if errors.Is(err, final) {
			return fmt.Sprintf("the guest says %.200q", err.Error()), true
		}
	}
	return "", false
}

func (m *mirror) take(at int64, p []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	lines := m.filter.keep(p)
	if m.filter.rejected > 0 && !m.warned {
		m.warned = true // once is enough, a guest could fill the log with it
		m.srv.log.Warn("guest logs what is no log line", slog.String("container", m.rec.Request.ID))
	}
	return m.file.write(lines, at+int64(len(p)))
}

// finish makes the end known.
func (m *mirror) finish(lost string) {
	m.mu.Lock()
	m.rec.Done, m.rec.Lost = true, lost
	dropped, rejected := m.file.dropped, m.filter.rejected
	m.file.end()
	err := m.srv.shelf.save(m.rec.Request.ID, mirrorSuffix, m.rec)
	m.mu.Unlock()
	if err != nil {
		m.srv.log.Warn("save end of mirror", slog.String("container", m.rec.Request.ID), slog.Any("error", err))
	}
	if dropped > 0 || rejected > 0 {
		m.srv.log.Warn("log is incomplete", slog.String("container", m.rec.Request.ID), slog.Int64("dropped", dropped), slog.Int64("rejected", rejected))
	}
	close(m.done)
}

// flush returns when all of the container's log is in the file: after its end.
func (m *mirror) flush(ctx context.Context) error {
	select {
	case <-m.done:
	case <-m.stopped:
	case <-ctx.Done():
		return ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !m.rec.Done:
		return fmt.Errorf("flush log: the mirror is being removed: %w", errdefs.ErrUnavailable)
	case m.rec.Lost != "":
		return fmt.Errorf("flush log: %s: %w", m.rec.Lost, errdefs.ErrUnavailable)
	}
	return nil
}

// reopen opens the log's path anew. Of a mirror that is over it only makes the file, as
// for a container that has exited.
func (m *mirror) reopen() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.file.reopen(); err != nil {
		return err
	}
	if m.rec.Done {
		m.file.close()
	}
	return nil
}

// state does not wait for the file: a list must not.
func (m *mirror) state() runtime.State {
	select {
	case <-m.done:
		return runtime.State{Phase: runtime.Exited}
	default:
		return runtime.State{Phase: runtime.Running}
	}
}

// halt ends the work; what has come is in the file.
func (m *mirror) halt() {
	m.stop()
	<-m.stopped
}

// pack is halt before a re-exec, for which a file system that hangs is no obstacle.
func (m *mirror) pack() {
	m.stop()
	select {
	case <-m.stopped:
	case <-time.After(quietTime):
	}
}

func (m *mirror) remove() error {
	m.halt()
	m.mu.Lock()
	m.file.end()
	m.mu.Unlock()
	s, id := m.srv, m.rec.Request.ID
	if err := s.forgetMirror(id); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.mirrors, id)
	s.mu.Unlock()
	return nil
}

// forgetMirror removes what is on file. The record goes last.
func (s *Server) forgetMirror(id string) error {
	err := os.Remove(filepath.Join(s.shelf.dir, id+positionSuffix))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove position: %w", err)
	}
	return s.shelf.remove(id, mirrorSuffix)
}

// adoptMirrors goes on with what earlier monitors mirrored.
func (s *Server) adoptMirrors() {
	records, errs := load[mirrorRecord](s.shelf, mirrorSuffix)
	for _, r := range records {
		if err := s.adoptMirror(r); err != nil {
			errs = append(errs, fmt.Errorf("mirror %s: %w", r.Request.ID, err))
		}
	}
	for _, err := range errs {
		s.log.Warn("adopt", slog.Any("error", err))
	}
}

// adoptMirror ends what an earlier monitor began. The position is made before the record
// and removed before it: without one, a removal was interrupted, and whoever asked for it
// has taken the log away meanwhile.
func (s *Server) adoptMirror(rec mirrorRecord) error {
	_, err := os.Lstat(filepath.Join(s.shelf.dir, rec.Request.ID+positionSuffix))
	if rec.Boot != s.boot || errors.Is(err, os.ErrNotExist) {
		return s.forgetMirror(rec.Request.ID)
	}
	m, err := s.newMirror(rec)
	if err != nil {
		return err
	}
	s.begun(m)
	return nil
}
