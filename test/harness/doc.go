// Package harness makes a private node for tests: mount, PID, network, UTS, IPC and cgroup
// namespaces in which a runtime and its tests run, beside whatever the machine does
// otherwise. Everything in it ends when its first process ends: processes, mounts,
// links, rules. Several nodes live side by side.
//
// A test program calls Isolate first thing in main or TestMain. Outside, Isolate starts
// the same program again inside and waits; inside, it returns at once and the program
// goes on. Daemon then starts a runtime, and Observe and Snapshot.Leaks tell what it
// left behind.
package harness
