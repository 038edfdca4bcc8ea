// Package netns makes the network, IPC and UTS namespaces of a pod without keeping a
// process in them: a thread unshares them, sets them up and pins them by bind mounts.
// Namespaces that need a process to be made (user, PID) are pinned from that process.
//
// A pinned namespace lives until it is unpinned and nothing runs in it any more; it
// survives this daemon.
package netns
