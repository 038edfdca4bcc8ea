package mux

import "time"

// deadline wakes those who wait for a stream when it is over.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) over() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

func (d *deadline) set(t time.Time, wake func()) {
	d.stop()
	d.at = t
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), wake)
	}
}

// SetDeadline implements net.Conn.
func (st *stream) SetDeadline(t time.Time) error {
	st.setDeadlines(t, &st.readBy, &st.writeBy)
	return nil
}

// SetReadDeadline implements net.Conn.
func (st *stream) SetReadDeadline(t time.Time) error {
	st.setDeadlines(t, &st.readBy)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (st *stream) SetWriteDeadline(t time.Time) error {
	st.setDeadlines(t, &st.writeBy)
	return nil
}

func (st *stream) setDeadlines(t time.Time, which ...*deadline) {
	st.s.link.mu.Lock()
	defer st.s.link.mu.Unlock()
	for _, d := range which {
		d.set(t, st.wake)
	}
	st.changed.Broadcast()
}

func (st *stream) wake() {
	st.s.link.mu.Lock()
	defer st.s.link.mu.Unlock()
	st.changed.Broadcast()
}
