// Package spec turns a runtime.Config and the Place it runs in into an OCI runtime
// specification. One builder serves every hull, so that a container looks the same in
// namespaces of this kernel and in a virtual machine.
//
// Build is pure: it reads no file and asks the kernel nothing. What it must know of the
// host stands in Place. The functions in host.go gather some of that.
//
// Specifications carry ociVersion 1.0.2, which every OCI runtime in use accepts; crun
// 1.8 refuses newer ones.
package spec
