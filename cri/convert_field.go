package cri

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hostFacts are what the conversions must know of the host and of the runtime handler.
// They read nothing themselves.
type hostFacts struct {
	// Hostname is the host's own name.
	Hostname string

	// CgroupV2, Swap and Hugetlb say what limits can be set. Without swap accounting
	// swap limits are left out, without the hugetlb controller those of huge pages.
	CgroupV2, Swap, Hugetlb bool

	// UserNamespaces, RecursiveReadOnly and OwnKernel are features of the runtime handler.
	UserNamespaces, RecursiveReadOnly, OwnKernel bool

	// Seccomp is true if the kernel filters system calls. ReadProfile reads a Localhost
	// profile (os.ReadFile).
	Seccomp     bool
	ReadProfile func(name string) ([]byte, error)

	// AppArmor is true if the kernel confines by profile. AppArmorDefault is the loaded
	// profile for RuntimeDefault, and AppArmorLoaded says whether the kernel has one of
	// that name.
	AppArmor        bool
	AppArmorDefault string
	AppArmorLoaded  func(profile string) (bool, error)

	// SELinux is true if it is enabled. SELinuxLabels makes the labels of processes and
	// of files from options "user:U", "role:R", "type:T", "level:L"
	// (label.InitLabels of github.com/opencontainers/selinux).
	SELinux       bool
	SELinuxLabels func(options []string) (process, mount string, err error)

	// Capabilities (CAP_X) are those that containers can have: what ALL means.
	Capabilities []string
}

// containerRequest is what a container is converted from.
type containerRequest struct {
	ID, SandboxID string
	Config        *v1.ContainerConfig
	Sandbox       *v1.PodSandboxConfig

	// Image is the image's configuration, ImageName what the user calls it, and Layers
	// its diff ids, the lowest first.
	Image     ocispec.ImageConfig
	ImageName string
	Layers    []digest.Digest

	// ReadFiles returns files of the image by name, as a container would see them; files
	// that do not exist are left out (layer.Store.ReadFiles).
	ReadFiles func(names ...string) (map[string][]byte, error)
	// ResolveImage finds the layers of an image volume, the lowest first; field is the
	// mount's.
	ResolveImage func(field string, m *v1.Mount) ([]digest.Digest, error)

	// ProcessLabel and MountLabel are the sandbox's SELinux labels: what a container
	// without options of its own gets.
	ProcessLabel, MountLabel string

	Host hostFacts
}

// badField says what is wrong with a field of a request. The format may wrap a cause
// with %w.
func badField(field, format string, args ...any) error {
	return fmt.Errorf("%s: %w: %w", field, errdefs.ErrInvalidArgument, fmt.Errorf(format, args...))
}

// notYet refuses a field that this version does not honour.
func notYet(field string) error {
	return fmt.Errorf("%s: not supported: %w", field, errdefs.ErrNotImplemented)
}

// at names an element of a repeated field.
func at(field string, i int) string {
	return fmt.Sprintf("%s[%d]", field, i)
}

// in names an entry of a map field.
func in(field, key string) string {
	return fmt.Sprintf("%s[%q]", field, key)
}

// checkAbsolute wants a non-empty absolute path.
func checkAbsolute(field, name string) error {
	switch {
	case name == "":
		return badField(field, "is required")
	case !path.IsAbs(name):
		return badField(field, "%q is not an absolute path", name)
	case strings.ContainsRune(name, 0):
		return badField(field, "holds a zero byte")
	}
	return nil
}

func checkAllAbsolute(field string, names []string) error {
	for i, name := range names {
		if err := checkAbsolute(at(field, i), name); err != nil {
			return err
		}
	}
	return nil
}
