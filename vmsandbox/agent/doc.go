// Package agent is how host and guest talk: the calls that a guest answers (Guest), a
// client for the host and a server for the guest, over streams of runtime/mux.
//
// Nothing that a guest sends is trusted: answers are bounded in size, and the host
// validates what it uses of them.
package agent
