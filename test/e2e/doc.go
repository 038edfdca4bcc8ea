// Package e2e is the end-to-end suite: objects of the Kubernetes API on a real cluster of
// one node (see test/cluster), each test in pods on the shared kernel and in virtual
// machines. make test-e2e runs it.
package e2e
