// Package images makes the container images that critest and the integration suite
// pull, from a static Go program (test/images/program) and a busybox built from the
// distribution's source package, and serves them as a registry.
//
// The images stand in for those that critest names (registry.k8s.io/e2e-test-images,
// gcr.io/k8s-staging-cri-tools, ...): same names, tags, users, entry points and
// observable behaviour, other bytes. A runtime under test reaches them by taking the
// registry as the mirror of every host. That the stand-ins are honest is shown by
// running critest against containerd on them (make test-long).
//
// Build is deterministic: the same sources and tool chain give the same digests. Its
// result is kept below the cache directory under a key made of its inputs, so that a
// second call reads a few files and returns.
package images
