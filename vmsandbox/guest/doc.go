// Package guest is process 1 of a pod's virtual machine: it makes the machine ready,
// answers the host over two virtio-serial ports, and has a monitor that runs the pod's
// containers.
//
// Run is the whole of it. What the host can ask for besides containers is agent.Guest,
// which Guest implements. The host is trusted here; the pod's containers are not: no path
// that they could have replaced by a symbolic link is followed.
package guest
