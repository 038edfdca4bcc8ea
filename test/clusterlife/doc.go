// Package clusterlife tests hack/cluster as people use it: a cluster comes up, is used from
// outside, and goes without a trace, also when the process that holds it was killed.
package clusterlife
