package cri

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/cricket-cri/cricket/runtime"
)

func setMounts(out *runtime.Config, r containerRequest) error {
	for i, m := range r.Config.GetMounts() {
		mount, err := convertMount(at("config.mounts", i), m, r)
		if err != nil {
			return err
		}
		out.Mounts = append(out.Mounts, mount)
	}
	return nil
}

func convertMount(field string, m *v1.Mount, r containerRequest) (runtime.Mount, error) {
	out := runtime.Mount{
		Destination:       m.GetContainerPath(),
		Readonly:          m.GetReadonly(),
		RecursiveReadOnly: m.GetRecursiveReadOnly(),
		SELinuxRelabel:    m.GetSelinuxRelabel(),
		Options:           slices.Clone(m.GetMountOptions()),
	}
	if err := checkAbsolute(field+".container_path", m.GetContainerPath()); err != nil {
		return out, err
	}
	if filepath.Clean(m.GetContainerPath()) == "/" {
		return out, badField(field+".container_path", "the root cannot be mounted over")
	}
	checks := []func(*runtime.Mount, string, *v1.Mount, containerRequest) error{
		setMountSource, setPropagation, checkReadOnly, setMountMappings, checkMountOptions,
	}
	for _, check := range checks {
		if err := check(&out, field, m, r); err != nil {
			return out, err
		}
	}
	return out, nil
}

// setMountSource takes either a path of the host or an image.
func setMountSource(out *runtime.Mount, field string, m *v1.Mount, r containerRequest) (err error) {
	if m.GetImage() == nil {
		if m.GetImageSubPath() != "" {
			return badField(field+".image_sub_path", "needs image")
		}
		out.Source = m.GetHostPath()
		return checkAbsolute(field+".host_path", m.GetHostPath())
	}
	switch {
	case m.GetHostPath() != "":
		return badField(field+".host_path", "excludes image")
	case !m.GetReadonly():
		return badField(field+".readonly", "must be set: image volumes are read-only")
	case m.GetImage().GetImage() == "":
		return badField(field+".image.image", "is required")
	}
	if sub := m.GetImageSubPath(); sub != "" {
		out.SubPath = filepath.Clean(strings.TrimPrefix(sub, "/"))
		if !filepath.IsLocal(out.SubPath) {
			return badField(field+".image_sub_path", "%q leaves the image", sub)
		}
	}
	out.Image, err = r.ResolveImage(field, m)
	if err != nil {
		return fmt.Errorf("%w: %w", crierrors.ErrImageVolumeMountFailed, err)
	}
	return nil
}

func setPropagation(out *runtime.Mount, field string, m *v1.Mount, _ containerRequest) error {
	switch m.GetPropagation() {
	case v1.MountPropagation_PROPAGATION_PRIVATE:
		out.Propagation = runtime.PropagationPrivate
	case v1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		out.Propagation = runtime.PropagationHostToContainer
	case v1.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		out.Propagation = runtime.PropagationBidirectional
	default:
		return badField(field+".propagation", "%d is unknown", m.GetPropagation())
	}
	return nil
}

// checkReadOnly wants what the API asks for: recursively read-only mounts are read-only
// and private.
func checkReadOnly(_ *runtime.Mount, field string, m *v1.Mount, r containerRequest) error {
	field += ".recursive_read_only"
	switch {
	case !m.GetRecursiveReadOnly():
		return nil
	case !m.GetReadonly():
		return badField(field, "needs readonly")
	case m.GetPropagation() != v1.MountPropagation_PROPAGATION_PRIVATE:
		return badField(field, "needs private propagation, got %s", m.GetPropagation())
	case !r.Host.RecursiveReadOnly:
		// The kubelet looks for the name of this error.
		return fmt.Errorf("%w: %s: the runtime handler has no recursive read-only mounts: %w",
			crierrors.ErrRROUnsupported, field, errdefs.ErrInvalidArgument)
	}
	return nil
}

func setMountMappings(out *runtime.Mount, field string, m *v1.Mount, r containerRequest) (err error) {
	if len(m.GetUidMappings())+len(m.GetGidMappings()) == 0 {
		return nil
	}
	pod := r.Sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions()
	switch {
	case pod == nil || pod.GetMode() != v1.NamespaceMode_POD:
		return badField(field+".uidMappings", "the sandbox has no user namespace")
	case len(m.GetUidMappings()) == 0:
		return badField(field+".uidMappings", "is required beside gidMappings")
	case len(m.GetGidMappings()) == 0:
		return badField(field+".gidMappings", "is required beside uidMappings")
	}
	if out.UIDMappings, err = idMappings(field+".uidMappings", m.GetUidMappings()); err != nil {
		return err
	}
	out.GIDMappings, err = idMappings(field+".gidMappings", m.GetGidMappings())
	return err
}

// checkMountOptions takes options that restrict a mount, and no others: the rest of
// what mount(8) takes would get round the other fields.
func checkMountOptions(_ *runtime.Mount, field string, m *v1.Mount, _ containerRequest) error {
	known := []string{"noexec", "nosuid", "nodev", "noatime", "nodiratime", "relatime", "strictatime"}
	for i, o := range m.GetMountOptions() {
		if !slices.Contains(known, o) {
			return badField(at(field+".mount_options", i), "%q is none of %s", o, strings.Join(known, ", "))
		}
	}
	return nil
}

func setDevices(out *runtime.Config, r containerRequest) error {
	for i, d := range r.Config.GetDevices() {
		field := at("config.devices", i)
		if err := checkAbsolute(field+".host_path", d.GetHostPath()); err != nil {
			return err
		}
		target := d.GetContainerPath()
		if target == "" {
			target = d.GetHostPath()
		}
		if err := checkAbsolute(field+".container_path", target); err != nil {
			return err
		}
		if p := d.GetPermissions(); p == "" || strings.Trim(p, "rwm") != "" {
			return badField(field+".permissions", "%q is not made of r, w and m", p)
		}
		out.Devices = append(out.Devices, runtime.Device{
			HostPath: d.GetHostPath(), ContainerPath: target, Permissions: d.GetPermissions(),
		})
	}
	return nil
}
