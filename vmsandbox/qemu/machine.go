package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	govmm "github.com/kata-containers/govmm/qemu"

	"github.com/cricket-cri/cricket/vmsandbox/qemu/qmp"
)

type machine struct {
	h      *hypervisor
	id     string
	record record
	pid    int
	pidfd  *os.File
	done   <-chan struct{}
	qmp    *qmp.Client

	govmm struct {
		sync.RWMutex // held for writing while the client is shut down
		*govmm.QMP
		gone   chan struct{} // closed with the connection
		closed bool
	}

	mu    sync.Mutex // serializes changes of disks and memory
	disks map[string]*loaded
	nodes int // names given to disks so far
}

// connect returns a machine even with an error, for abandon. An error quotes QEMU's last
// words.
func (h *hypervisor) connect(ctx context.Context, id string, rec record, pid int) (*machine, error) {
	m := &machine{h: h, id: id, record: rec, pid: pid, disks: map[string]*loaded{}}
	var err error
	if m.pidfd, m.done, err = watchProcess(pid); err != nil {
		return m, m.explain(err)
	}
	// Nobody would answer any more on the socket of a QEMU that has died.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-m.done:
			cancel(fmt.Errorf("QEMU has ended: %w", errdefs.ErrUnavailable))
		case <-stop:
		}
	}()
	err = m.dial(ctx)
	close(stop)
	<-watched
	if err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	return m, m.explain(err)
}

func (m *machine) dial(ctx context.Context) (err error) {
	if m.qmp, err = qmp.Dial(ctx, filepath.Join(m.Dir(), socketQMP)); err != nil {
		return err
	}
	m.govmm.gone = make(chan struct{})
	client, _, err := govmm.QMPStart(ctx, filepath.Join(m.Dir(), socketGovmm), govmm.QMPConfig{MaxCapacity: qmp.MaxMessage}, m.govmm.gone)
	if err != nil {
		return fmt.Errorf("connect to QMP: %w: %w", errdefs.ErrUnavailable, err)
	}
	m.govmm.QMP = client
	if err := client.ExecuteQMPCapabilities(ctx); err != nil {
		return fmt.Errorf("connect to QMP: %w: %w", errdefs.ErrUnavailable, err)
	}
	return nil
}

// explain adds QEMU's last words to an error if that has ended or ends just now: its
// connections are gone a moment before it is.
func (m *machine) explain(err error) error {
	var explained *ending
	if err == nil || errors.As(err, &explained) || !m.lost() && !errdefs.IsUnavailable(err) {
		return err
	}
	if !errdefs.IsUnavailable(err) {
		err = fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
	}
	moment := time.NewTimer(flushTime)
	defer moment.Stop()
	select {
	case <-m.done:
	case <-moment.C:
	}
	return &ending{err, m.LastWords()}
}

// ending is an error that comes of QEMU's end.
type ending struct {
	error
	words string
}

func (e *ending) Unwrap() error { return e.error }

func (e *ending) Error() string {
	if e.words == "" {
		return e.error.Error()
	}
	return e.error.Error() + "; QEMU said: " + e.words
}

// ended tells whether QEMU has ended, as far as this machine could see.
func (m *machine) ended() bool {
	select {
	case <-m.done:
		return true
	default:
		return m.pidfd == nil
	}
}

// lost tells whether QEMU or the connections to it have ended.
func (m *machine) lost() bool {
	var ours <-chan struct{}
	if m.qmp != nil {
		ours = m.qmp.Done()
	}
	select {
	case <-m.done:
	case <-ours:
	case <-m.govmm.gone:
	default:
		return false
	}
	return true
}

func (m *machine) ID() string            { return m.id }
func (m *machine) Dir() string           { return m.h.dir(m.id) }
func (m *machine) Pid() int              { return m.pid }
func (m *machine) Done() <-chan struct{} { return m.done }

func (m *machine) Socket(port string) string { return filepath.Join(m.Dir(), port) }

// Close lets go of the machine. Done is then closed no more.
func (m *machine) Close() error {
	m.abandon()
	return nil
}

func (m *machine) abandon() {
	if m == nil {
		return
	}
	if m.qmp != nil {
		_ = m.qmp.Close()
	}
	m.govmm.Lock()
	if m.govmm.QMP != nil && !m.govmm.closed {
		m.govmm.closed = true
		m.govmm.Shutdown()
	}
	m.govmm.Unlock()
	if m.pidfd != nil {
		m.pidfd.Close()
	}
}

// ask calls govmm's client, which must not be called when it has been shut down.
func (m *machine) ask(call func(q *govmm.QMP) error) error {
	m.govmm.RLock()
	defer m.govmm.RUnlock()
	if m.govmm.closed {
		return fmt.Errorf("machine is closed: %w", errdefs.ErrUnavailable)
	}
	return m.explain(call(m.govmm.QMP))
}

// Pause stops the guest's processors and clock.
func (m *machine) Pause(ctx context.Context) error {
	if err := m.ask(func(q *govmm.QMP) error { return q.ExecuteStop(ctx) }); err != nil {
		return fmt.Errorf("pause machine: %w", err)
	}
	return nil
}

// Resume lets the guest go on.
func (m *machine) Resume(ctx context.Context) error {
	if err := m.ask(func(q *govmm.QMP) error { return q.ExecuteCont(ctx) }); err != nil {
		return fmt.Errorf("resume machine: %w", err)
	}
	return nil
}

// capabilities leave the memory out of a state that is saved or loaded, unless it is whole,
// and report the end of that by an event.
func (m *machine) capabilities(ctx context.Context, whole bool) error {
	return m.ask(func(q *govmm.QMP) error {
		return q.ExecSetMigrationCaps(ctx, []map[string]any{
			{"capability": "x-ignore-shared", "state": !whole},
			{"capability": "events", "state": true},
		})
	})
}

// Save writes the device state. Only Remove makes sense afterwards.
func (m *machine) Save(ctx context.Context, f *os.File) error {
	if err := m.write(ctx, f, false); err != nil {
		return m.explain(fmt.Errorf("save machine: %w", err))
	}
	return nil
}

// write writes a state, with the memory if it is to be whole.
func (m *machine) write(ctx context.Context, f *os.File, whole bool) error {
	if err := m.capabilities(ctx, whole); err != nil {
		return err
	}
	w := m.qmp.Watch()
	defer w.Close()
	// The descriptor has a name on the connection only that passed it.
	err := m.qmp.Execute(ctx, "getfd", map[string]any{"fdname": "state"}, nil, f)
	if err == nil {
		err = m.qmp.Execute(ctx, "migrate", map[string]any{"uri": "fd:state"}, nil)
	}
	if err == nil {
		err = m.migrated(ctx, w)
	}
	return err
}

// load reads a state from an inherited descriptor.
func (m *machine) load(ctx context.Context, fd int, whole bool) error {
	w := m.qmp.Watch()
	defer w.Close()
	err := m.capabilities(ctx, whole)
	if err == nil {
		// QEMU would have the guest announce its address five times, for switches that know
		// it somewhere else. Nobody knows a clone yet.
		err = m.qmp.Execute(ctx, "migrate-set-parameters", map[string]any{"announce-rounds": 0}, nil)
	}
	if err == nil {
		err = m.ask(func(q *govmm.QMP) error { return q.ExecuteMigrationIncoming(ctx, fmt.Sprintf("fd:%d", fd)) })
	}
	if err == nil {
		err = m.migrated(ctx, w)
	}
	if err != nil {
		return m.explain(fmt.Errorf("load state of machine: %w", err))
	}
	return nil
}

// migrated waits until QEMU has written or read a state.
func (m *machine) migrated(ctx context.Context, w *qmp.Watch) error {
	for {
		e, err := w.Next(ctx)
		if err != nil {
			return err
		}
		if e.Name != "MIGRATION" {
			continue
		}
		var d struct {
			Status string `json:"status"`
		}
		if err := json.Unmarshal(e.Data, &d); err != nil {
			return fmt.Errorf("read event of QEMU: %w: %w", errdefs.ErrInternal, err)
		}
		switch d.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return m.migrationError(ctx)
		}
	}
}

func (m *machine) migrationError(ctx context.Context) error {
	var info struct {
		Desc string `json:"error-desc"`
	}
	if err := m.qmp.Execute(ctx, "query-migrate", nil, &info); err != nil {
		return fmt.Errorf("migration: %w: %w", errdefs.ErrUnavailable, err)
	}
	if info.Desc == "" {
		info.Desc = "QEMU gives no reason"
	}
	return fmt.Errorf("migration: %w: %w", errdefs.ErrInternal, errors.New(info.Desc))
}

// flushTime bounds the wait for what a QEMU that has ended had still written.
const flushTime = time.Second

// LastWords is the end of what QEMU and the guest's console said.
func (m *machine) LastWords() string {
	select {
	case <-m.done:
		ctx, cancel := context.WithTimeout(context.Background(), flushTime)
		_, _ = m.h.options.Monitor.Wait(ctx, process(m.id)) // returns when the log is complete
		cancel()
	default:
	}
	return lastWords(m.Dir())
}
