// Package cgroupstat reads the figures of cgroups from the kernel's files, version 1
// (Documentation/admin-guide/cgroup-v1) and 2 (cgroup-v2.rst), on the host and in guests.
// It reads directly, without a library in between, because it is what an idle node does
// all day (docs/decisions/0005). A figure that the kernel does not give stays nil.
package cgroupstat
