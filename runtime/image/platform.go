package image

import (
	"strconv"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/cpu"
)

// nodePlatform orders the platforms this node runs. On amd64 the baseline comes first,
// since the same image may run in a virtual machine with a lesser CPU; the levels v2 and
// v3 are taken where an image has nothing else and the CPU is known to have them.
func nodePlatform() platforms.MatchComparer {
	spec := platforms.DefaultSpec()
	if spec.Architecture != "amd64" {
		return platforms.Default()
	}
	list := []ocispec.Platform{spec}
	for level := 2; level <= amd64Level(); level++ {
		leveled := spec
		leveled.Variant = "v" + strconv.Itoa(level)
		list = append(list, leveled)
	}
	old := spec
	old.Architecture = "386"
	return platforms.Ordered(append(list, old)...)
}

// amd64Level is the microarchitecture level, as far as it can be told: 1 to 3.
func amd64Level() int {
	x := cpu.X86
	if !x.HasPOPCNT || !x.HasSSE41 || !x.HasSSE42 || !x.HasSSSE3 || !x.HasCX16 {
		return 1
	}
	if !x.HasAVX2 || !x.HasBMI1 || !x.HasBMI2 || !x.HasFMA || !x.HasOSXSAVE {
		return 2
	}
	return 3
}
