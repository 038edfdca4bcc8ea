// Package clusterlife tests make cluster and hack/cluster as people use them: a cluster comes
// up, on Cricket or on containerd, is used from outside, and goes without a trace, also when
// the process that holds it was killed.
package clusterlife
