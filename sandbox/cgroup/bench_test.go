package cgroup

import (
	"testing"

	"github.com/containerd/cgroups/v3/cgroup1"

	"github.com/cricket-cri/cricket/runtime"
)

// BenchmarkStat compares one measurement with the library's (docs/decisions/0005). The
// direct reading is kept for as long as it is worth it.
func BenchmarkStat(b *testing.B) {
	tree, err := Open()
	if err != nil {
		b.Fatal(err)
	}
	if tree.Unified() {
		b.Skip("compares on v1 only")
	}
	const path = "/cricket-bench"
	if err := tree.Make(path); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = tree.Remove(path) }()
	b.Run("direct", func(b *testing.B) {
		var s runtime.Stat
		for b.Loop() {
			if err := tree.Stat(path, &s); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("library", func(b *testing.B) {
		group, err := cgroup1.Load(cgroup1.StaticPath(path), cgroup1.WithHierarchy(tree.subsystems))
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := group.Stat(cgroup1.IgnoreNotExist); err != nil {
				b.Fatal(err)
			}
		}
	})
}
