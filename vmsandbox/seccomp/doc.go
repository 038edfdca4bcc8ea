// Package seccomp compiles seccomp profiles of the OCI specification into programs for
// the kernel, in Go alone: where containers are run by a process without libc there is
// no libseccomp. What profiles mean is what runc and libseccomp make of them; a test
// compares.
//
// Programs are for the architecture that this is compiled for, with those that its
// kernel executes too (x86 and x32 on x86-64, ARM on ARM64).
package seccomp

//go:generate go run ./generate
