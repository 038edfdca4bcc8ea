package diff

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func volumeFile(dir string) error {
	return os.WriteFile(filepath.Join(dir, "file"), []byte("of the host\n"), 0o644)
}

// volumeBelow puts another file system below the volume.
func volumeBelow(dir string) error {
	below := filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("below", below, "tmpfs", unix.MS_NOSUID, "size=1m"); err != nil {
		return err
	}
	return volumeFile(below)
}

// volumes are mounts.
func volumes() []testCase {
	with := func(name string, change func(r *request, m *cri.Mount)) testCase {
		return testCase{"mounts/" + name, func(r *request) {
			m := &cri.Mount{HostPath: r.dir, ContainerPath: "/volume"}
			r.container.Mounts, r.prepare = []*cri.Mount{m}, volumeFile
			change(r, m)
		}}
	}
	second := func(r *request, m *cri.Mount) { r.container.Mounts = append(r.container.Mounts, m) }
	return []testCase{
		with("writable", func(*request, *cri.Mount) {}),
		with("read-only", func(_ *request, m *cri.Mount) { m.Readonly = true }),
		with("with-mount-below", func(r *request, _ *cri.Mount) { r.prepare = volumeBelow }),
		with("read-only-with-mount-below", func(r *request, m *cri.Mount) { m.Readonly, r.prepare = true, volumeBelow }),
		with("recursive-read-only", func(r *request, m *cri.Mount) { m.Readonly, m.RecursiveReadOnly, r.prepare = true, true, volumeBelow }),
		with("recursive-writable", func(_ *request, m *cri.Mount) { m.RecursiveReadOnly = true }),
		with("host-to-container", func(_ *request, m *cri.Mount) { m.Propagation = cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER }),
		with("bidirectional", func(r *request, m *cri.Mount) {
			m.Propagation = cri.MountPropagation_PROPAGATION_BIDIRECTIONAL
			r.security().Privileged, r.podSecurity().Privileged = true, true
		}),
		with("file", func(_ *request, m *cri.Mount) { m.HostPath, m.ContainerPath = m.HostPath+"/file", "/volume-file" }),
		with("source-missing", func(r *request, m *cri.Mount) { m.HostPath += "/missing" }),
		with("source-a-link", func(r *request, m *cri.Mount) {
			target := m.HostPath
			m.HostPath += "-link"
			r.prepare = func(dir string) error { return os.Symlink(target, dir+"-link") }
		}),
		with("no-exec", func(_ *request, m *cri.Mount) { m.MountOptions = []string{"noexec", "nosuid", "nodev"} }),
		with("relative-destination", func(_ *request, m *cri.Mount) { m.ContainerPath = "volume" }),
		with("nested", func(r *request, m *cri.Mount) {
			m.ContainerPath = "/volume/below"
			second(r, &cri.Mount{HostPath: r.dir, ContainerPath: "/volume"})
		}),
		with("twice", func(r *request, m *cri.Mount) {
			second(r, &cri.Mount{HostPath: r.dir, ContainerPath: "/volume", Readonly: true})
		}),
		with("over-shm", func(_ *request, m *cri.Mount) { m.ContainerPath = "/dev/shm" }),
		with("over-hosts", func(_ *request, m *cri.Mount) { m.HostPath, m.ContainerPath = m.HostPath+"/file", "/etc/hosts" }),
		with("of-files-of-image", func(_ *request, m *cri.Mount) { m.ContainerPath = "/own" }),
		with("image", func(_ *request, m *cri.Mount) {
			*m = cri.Mount{ContainerPath: "/image", Image: &cri.ImageSpec{Image: imageSettled}, Readonly: true}
		}),
		with("image-sub-path", func(_ *request, m *cri.Mount) {
			*m = cri.Mount{ContainerPath: "/image", Image: &cri.ImageSpec{Image: imageSettled}, ImageSubPath: "own", Readonly: true}
		}),
		{"mounts/volume-of-image", func(r *request) { r.container.Image.Image, r.security().RunAsUser = imageSettled, id(0) }},
		{"mounts/read-only-root", func(r *request) { r.security().ReadonlyRootfs = true }},
		{"mounts/nothing-masked", func(r *request) { r.security().MaskedPaths, r.security().ReadonlyPaths = nil, nil }},
		{"mounts/others-masked", func(r *request) {
			r.security().MaskedPaths, r.security().ReadonlyPaths = []string{"/own", "/etc/passwd", "/no/such"}, []string{"/tmp", "/no/such"}
		}},
	}
}

// nodes are devices.
func nodes() []testCase {
	with := func(name string, d *cri.Device) testCase {
		return testCase{"devices/" + name, func(r *request) { r.container.Devices = []*cri.Device{d} }}
	}
	return []testCase{
		with("fuse", &cri.Device{HostPath: "/dev/fuse", ContainerPath: "/dev/fuse", Permissions: "rwm"}),
		with("elsewhere", &cri.Device{HostPath: "/dev/zero", ContainerPath: "/dev/probe", Permissions: "rw"}),
		with("read-only", &cri.Device{HostPath: "/dev/fuse", ContainerPath: "/dev/fuse", Permissions: "r"}),
		with("missing", &cri.Device{HostPath: "/dev/none", ContainerPath: "/dev/none", Permissions: "rwm"}),
		with("no-device", &cri.Device{HostPath: "/etc/passwd", ContainerPath: "/dev/none", Permissions: "rwm"}),
		{"devices/as-user", func(r *request) {
			r.container.Devices = []*cri.Device{{HostPath: "/dev/fuse", ContainerPath: "/dev/fuse", Permissions: "rwm"}}
			r.security().RunAsUser = id(1000)
		}},
	}
}
