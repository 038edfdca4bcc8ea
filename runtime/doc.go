// Package runtime holds what every hull shares: the description of a container
// (Config), the live container (Container), its streams, exits and figures.
//
// A hull is a place where containers run: a set of namespaces on this kernel, or a
// virtual machine. Both hand out the same Container, so nothing above this package
// has to know which one it talks to.
//
// The packages below do the work: runtime/spec turns a Config into an OCI
// specification, runtime/oci drives an OCI runtime, runtime/monitor supervises the
// processes, runtime/logfile writes CRI logs, runtime/image pulls images and
// runtime/layer keeps their layers.
//
// Cricket runs on Linux only; no file carries a build constraint for it.
//
// Errors wrap one of the kinds of github.com/containerd/errdefs, a verb phrase and
// the cause. Ids are added once, by the outermost layer.
package runtime
