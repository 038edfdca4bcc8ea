// Package vmsandbox is the driver of sandboxes that are virtual machines: each pod has a
// kernel of its own, and its containers run in namespaces and cgroups of that kernel. It
// implements sandbox.Driver, so nothing above knows the difference.
//
// A pod is a machine from a pool, which is connected to the pod's network, told who it is
// and given the image's layers as disks. Its containers are made by the same supervisor as
// on the host, which runs in the guest and is called over a channel of the machine; the
// host's own supervisor is the parent of the hypervisor and writes the logs.
//
// A machine that dies is a pod that died: its sandbox is no longer ready and its
// containers have ended, with an exit code that nobody knows unless it was known before.
// No call to a guest is without a deadline.
//
// Under the state directory, vm/pods/ID describes a pod: state.json says which machine it
// has, containers/ID what each container has of it.
package vmsandbox
