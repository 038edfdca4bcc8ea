// Package cgroup makes, limits, measures and empties the cgroups of pods, on cgroup v2
// and on the hierarchies of v1. It reads and writes the kernel's files directly: no
// process, and no allocation worth mentioning, is spent on a measurement.
//
// A path is relative to the root of the hierarchy and begins with a slash.
package cgroup
