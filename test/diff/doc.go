// Package diff asks whether a container sees the same world under Cricket as under the
// runtime that a node migrates from.
//
// Each of its cases, a pod and a container of some configuration, is sent to containerd
// with runc and to a private cricketd, for the shared kernel (TestKernel) and for virtual
// machines (TestVM). Package probe runs in them and says what it sees; that, and what the
// runtimes answer, is put into plain words (words_test.go) and compared. Every difference
// stands in differences.txt with its reason, and every line there must still apply.
//
// Trees are compared as well (TestTreesKernel, TestTreesVM): every file of a container's root,
// from layers with all that tars can hold and from Debian's packages, and what programs of
// these do. Their list is trees.txt.
package diff
