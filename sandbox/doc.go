// Package sandbox holds the interface of a place where containers run (Driver,
// Sandbox) and the shared-kernel driver: a sandbox made of namespaces and cgroups of
// this kernel. The driver for virtual machines is package vmsandbox; nothing above
// the interface knows which one it has.
package sandbox
