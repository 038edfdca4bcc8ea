// Package monitor is the node's supervisor of container processes, with its protocol
// and its client.
//
// The Server is the parent (or, as a subreaper, the step-parent) of every container's
// init and of every exec'd process. It owns their standard streams, writes their logs,
// learns their exit codes and whether they ran out of memory, and enforces the time
// limits of execs. It keeps no policy. The daemon talks to it through Client over
// short connections, one for each call, and may die at any time.
//
// It also fathers programs of the host that must outlive the daemon (Client.Spawn: a
// virtual machine), and brings the logs of containers in a guest, where another Server
// runs, into files of the host (Client.Mirror).
//
// A Server owns its whole process: it reaps every child, so nothing in the process may
// use os/exec. docs/decisions/0001-one-monitor.md says why there is one per node, and
// what is promised when it is killed.
package monitor
