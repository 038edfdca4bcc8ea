// Package confine starts a program with nothing of the host but what it was promised: a
// root of its own, a user of its own, a few capabilities over files, no way to gain more.
// It is a sub-command of the monitor's program, whose process it remains.
package confine
