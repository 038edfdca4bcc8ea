// Package cluster makes a Kubernetes cluster of one node inside a private node (see
// test/harness): etcd, the control plane, a kubelet, kube-proxy and CoreDNS, each built
// from its Go module, on Cricket or on containerd, with a registry on the loopback address
// that stands for every registry.
//
// Prepare builds what a cluster needs, outside of the private node; Start starts one inside
// and returns when a pod can be made. The cluster ends with the private node.
package cluster
