// Package mux carries many streams over one byte channel between a host and a guest,
// a virtio-serial port for instance. The host opens streams, the guest accepts them;
// each has a window of its own, so that one nobody reads does not delay the others.
//
// # Hosts come and go
//
// The guest does not learn reliably that a host has gone: a successor that connects at
// once continues the byte stream of the one before, in the middle of a frame. So a frame
// has at most 32 KiB and ends with a mark that is not zero. A new host first sends
// 32 KiB of zeros: they complete whatever frame its predecessor has left, which then
// lacks its mark and is dropped, and between frames they mean nothing. A greeting with a
// random number follows. The guest ends all streams of the old host and returns the
// greeting; what the new host receives before that was not meant for it.
//
// # Trust
//
// The host takes every byte from the guest for an attack. What the guest has sent and
// nobody has read is bounded by windows and by a budget for all of them together; frames
// for streams that are gone are counted against what can still have been under way; a
// frame that breaks a rule ends the session with an error.
//
// # Format
//
// A frame is its kind (1 byte), the length of the payload (2, big endian), the stream (4)
// and the payload, followed by the mark. Each side ends each stream with exactly one
// close or refuse.
package mux

import (
	"log/slog"

	"github.com/containerd/errdefs"
)

// Options of a session. Zero fields take the defaults.
type Options struct {
	// Window is how many bytes a stream may have in flight towards this side, and how
	// many sent bytes it keeps until they have left. It is at least 32 KiB and at most
	// 16 MiB; the default is 256 KiB.
	Window int
	// Budget is how many bytes all streams together may have in flight towards this
	// side: streams that are opened when it is nearly used up have smaller windows, of
	// 32 KiB at least. Memory is at most twice that. The default is 16 MiB.
	Budget int
	// MaxStreams at the same time; the default is 256. One that the host has closed does not
	// count, though the guest's user has not noticed.
	MaxStreams int
	// Log may be nil.
	Log *slog.Logger
}

const (
	defaultWindow     = 256 << 10
	defaultBudget     = 16 << 20
	defaultMaxStreams = 256
	// baseWindow is what either side must be able to take of every stream: it may be
	// sent before the stream is accepted.
	baseWindow = 32 << 10
	maxWindow  = 16 << 20
)

func (o Options) withDefaults() Options {
	if o.Window == 0 {
		o.Window = defaultWindow
	}
	o.Window = min(max(o.Window, baseWindow), maxWindow)
	if o.Budget == 0 {
		o.Budget = defaultBudget
	}
	if o.MaxStreams <= 0 {
		o.MaxStreams = defaultMaxStreams
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// maxService is the longest name of a service in bytes.
const maxService = 64

// validService tells whether a name is short and printable.
func validService(name string) bool {
	if name == "" || len(name) > maxService {
		return false
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

// Error is why a session has ended. It is errdefs.ErrUnavailable, and its cause.
type Error struct{ Cause error }

// Error implements error.
func (e *Error) Error() string { return "channel: " + e.Cause.Error() }

// Unwrap returns the kind and the cause.
func (e *Error) Unwrap() []error { return []error{errdefs.ErrUnavailable, e.Cause} }
