package cri

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/cricket-cri/cricket/runtime"
)

const (
	passwd = "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/sh\nalice:x:1000:1001::/:/bin/sh\nhuge:x:4294967295:1::/:\n"
	group  = "root:x:0:\nweb:x:34:\nextra:x:50:alice,web\nmore:x:60:alice\n"
)

func testFacts() hostFacts {
	return hostFacts{
		Hostname: "node1", CgroupV2: true, Swap: true, Hugetlb: true,
		UserNamespaces: true, RecursiveReadOnly: true, Seccomp: true,
		ReadProfile:  func(string) ([]byte, error) { return nil, os.ErrNotExist },
		Capabilities: []string{"CAP_CHOWN", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"},
	}
}

// testRequest is a container with nothing special about it.
func testRequest() containerRequest {
	return containerRequest{
		ID: "c1", SandboxID: "s1",
		Config: &v1.ContainerConfig{
			Metadata: &v1.ContainerMetadata{Name: "app"},
			Image:    &v1.ImageSpec{Image: "sha256:abc", UserSpecifiedImage: "busybox:1"},
			Command:  []string{"run"},
			LogPath:  "app/0.log",
			Linux:    &v1.LinuxContainerConfig{SecurityContext: &v1.LinuxContainerSecurityContext{}},
		},
		Sandbox: &v1.PodSandboxConfig{
			Metadata:     &v1.PodSandboxMetadata{Name: "pod", Namespace: "ns", Uid: "u"},
			LogDirectory: "/var/log/pods/x",
			Hostname:     "pod",
			Linux:        &v1.LinuxPodSandboxConfig{SecurityContext: &v1.LinuxSandboxSecurityContext{NamespaceOptions: &v1.NamespaceOption{}}},
		},
		Layers: []digest.Digest{"sha256:l1"},
		ReadFiles: func(...string) (map[string][]byte, error) {
			return map[string][]byte{"/etc/passwd": []byte(passwd), "/etc/group": []byte(group)}, nil
		},
		ResolveImage: func(field string, m *v1.Mount) ([]digest.Digest, error) {
			s := m.GetImage()
			if s.GetImage() == "missing" {
				return nil, fmt.Errorf("%s.image: %w", field, errdefs.ErrNotFound)
			}
			return []digest.Digest{"sha256:v1"}, nil
		},
		Host: testFacts(),
	}
}

func security(r *containerRequest) *v1.LinuxContainerSecurityContext {
	return r.Config.GetLinux().GetSecurityContext()
}

func podSecurity(r *containerRequest) *v1.LinuxSandboxSecurityContext {
	return r.Sandbox.GetLinux().GetSecurityContext()
}

func convert(t *testing.T, r containerRequest) runtime.Config {
	t.Helper()
	c, err := convertContainer(r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wantRefusal wants an error of a kind that begins with the field's path.
func wantRefusal(t *testing.T, err, kind error, field string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got %v, want %v", err, kind)
	}
	if !strings.HasPrefix(err.Error(), field+": ") {
		t.Errorf("%q does not begin with the field %s", err, field)
	}
}

func TestConvertContainer(t *testing.T) {
	r := testRequest()
	r.Config.Tty, r.Config.Stdin, r.Config.StdinOnce = true, true, true
	sc := security(&r)
	sc.NoNewPrivs, sc.ReadonlyRootfs = true, true
	sc.MaskedPaths, sc.ReadonlyPaths = []string{"/proc/a"}, []string{"/proc/b"}
	r.Config.Devices = []*v1.Device{{HostPath: "/dev/fuse", Permissions: "rw"}}
	got := convert(t, r)
	want := runtime.Config{
		ID: "c1", Image: []digest.Digest{"sha256:l1"}, Args: []string{"run"}, Cwd: "/",
		Env:      []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", "HOSTNAME=pod", "HOME=/root"},
		Terminal: true, Stdin: true, StdinOnce: true, LogPath: "/var/log/pods/x/app/0.log",
		User:            specs.User{AdditionalGids: []uint32{0}},
		NoNewPrivileges: true, ReadonlyRootfs: true,
		MaskedPaths: []string{"/proc/a"}, ReadonlyPaths: []string{"/proc/b"},
		Capabilities: got.Capabilities, // has its own test
		Devices:      []runtime.Device{{HostPath: "/dev/fuse", ContainerPath: "/dev/fuse", Permissions: "rw"}},
		PID:          runtime.NamespacePod,
		Annotations: map[string]string{
			"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.container-name": "app",
			"io.kubernetes.cri.image-name": "busybox:1", "io.kubernetes.cri.sandbox-id": "s1",
			"io.kubernetes.cri.sandbox-name": "pod", "io.kubernetes.cri.sandbox-namespace": "ns", "io.kubernetes.cri.sandbox-uid": "u",
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestConvertContainerRefuses(t *testing.T) {
	const sec = "config.linux.security_context"
	mount := func(m *v1.Mount) func(*containerRequest) {
		return func(r *containerRequest) { r.Config.Mounts = []*v1.Mount{m} }
	}
	image := &v1.ImageSpec{Image: "vol"}
	ids := []*v1.IDMapping{{HostId: 65536, Length: 65536}}
	for name, tc := range map[string]struct {
		change func(*containerRequest)
		field  string
	}{
		"no config":              {func(r *containerRequest) { r.Config = nil }, "config"},
		"no sandbox":             {func(r *containerRequest) { r.Sandbox = nil }, "sandbox_config"},
		"no metadata":            {func(r *containerRequest) { r.Config.Metadata = nil }, "config.metadata"},
		"no name":                {func(r *containerRequest) { r.Config.Metadata.Name = "" }, "config.metadata.name"},
		"no image":               {func(r *containerRequest) { r.Config.Image = nil }, "config.image.image"},
		"windows":                {func(r *containerRequest) { r.Config.Windows = &v1.WindowsContainerConfig{} }, "config.windows"},
		"no command":             {func(r *containerRequest) { r.Config.Command = nil }, "config.command"},
		"relative directory":     {func(r *containerRequest) { r.Config.WorkingDir = "srv" }, "config.working_dir"},
		"log path":               {func(r *containerRequest) { r.Config.LogPath = "../x" }, "config.log_path"},
		"variable without name":  {func(r *containerRequest) { r.Config.Envs = []*v1.KeyValue{{Value: []byte("x")}} }, "config.envs[0].key"},
		"variable named a=b":     {func(r *containerRequest) { r.Config.Envs = []*v1.KeyValue{{Key: "a=b"}} }, "config.envs[0].key"},
		"variable with zero":     {func(r *containerRequest) { r.Config.Envs = []*v1.KeyValue{{Key: "a", Value: []byte("\x00")}} }, "config.envs[0].value"},
		"masked path":            {func(r *containerRequest) { security(r).MaskedPaths = []string{"/a", "b"} }, sec + ".masked_paths[1]"},
		"read-only path":         {func(r *containerRequest) { security(r).ReadonlyPaths = []string{""} }, sec + ".readonly_paths[0]"},
		"privileged":             {func(r *containerRequest) { security(r).Privileged = true }, sec + ".privileged"},
		"device without path":    {func(r *containerRequest) { r.Config.Devices = []*v1.Device{{}} }, "config.devices[0].host_path"},
		"device permissions":     {func(r *containerRequest) { r.Config.Devices = []*v1.Device{{HostPath: "/d", Permissions: "x"}} }, "config.devices[0].permissions"},
		"device, no permissions": {func(r *containerRequest) { r.Config.Devices = []*v1.Device{{HostPath: "/d"}} }, "config.devices[0].permissions"},

		"mount without target":    {mount(&v1.Mount{HostPath: "/a"}), "config.mounts[0].container_path"},
		"mount over the root":     {mount(&v1.Mount{HostPath: "/a", ContainerPath: "/."}), "config.mounts[0].container_path"},
		"mount without source":    {mount(&v1.Mount{ContainerPath: "/a"}), "config.mounts[0].host_path"},
		"mount of two sources":    {mount(&v1.Mount{ContainerPath: "/a", HostPath: "/b", Image: image}), "config.mounts[0].host_path"},
		"writable image":          {mount(&v1.Mount{ContainerPath: "/a", Image: image}), "config.mounts[0].readonly"},
		"image without name":      {mount(&v1.Mount{ContainerPath: "/a", Readonly: true, Image: &v1.ImageSpec{}}), "config.mounts[0].image.image"},
		"sub path leaves":         {mount(&v1.Mount{ContainerPath: "/a", Readonly: true, Image: image, ImageSubPath: "a/../../b"}), "config.mounts[0].image_sub_path"},
		"sub path of no image":    {mount(&v1.Mount{ContainerPath: "/a", HostPath: "/b", ImageSubPath: "x"}), "config.mounts[0].image_sub_path"},
		"propagation":             {mount(&v1.Mount{ContainerPath: "/a", HostPath: "/b", Propagation: 9}), "config.mounts[0].propagation"},
		"rro, writable":           {mount(&v1.Mount{ContainerPath: "/a", HostPath: "/b", RecursiveReadOnly: true}), "config.mounts[0].recursive_read_only"},
		"rro, shared":             {mount(&v1.Mount{ContainerPath: "/a", HostPath: "/b", RecursiveReadOnly: true, Readonly: true, Propagation: 2}), "config.mounts[0].recursive_read_only"},
		"mount option":            {mount(&v1.Mount{ContainerPath: "/a", HostPath: "/b", MountOptions: []string{"noexec", "rw"}}), "config.mounts[0].mount_options[1]"},
		"mappings without userns": {mount(&v1.Mount{ContainerPath: "/a", HostPath: "/b", UidMappings: ids, GidMappings: ids}), "config.mounts[0].uidMappings"},
		"group mappings missing": {func(r *containerRequest) {
			useUserNS(r)
			r.Config.Mounts = []*v1.Mount{{ContainerPath: "/a", HostPath: "/b", UidMappings: ids}}
		}, "config.mounts[0].gidMappings"},

		"run_as_group alone": {func(r *containerRequest) { security(r).RunAsGroup = &v1.Int64Value{Value: 1} }, sec + ".run_as_group"},
		"two users": {func(r *containerRequest) {
			security(r).RunAsUser, security(r).RunAsUsername = &v1.Int64Value{}, "web"
		}, sec + ".run_as_username"},
		"unknown user":          {func(r *containerRequest) { security(r).RunAsUsername = "bob" }, sec + ".run_as_username"},
		"user out of range":     {func(r *containerRequest) { security(r).RunAsUser = &v1.Int64Value{Value: 1 << 31} }, sec + ".run_as_user"},
		"negative user":         {func(r *containerRequest) { security(r).RunAsUser = &v1.Int64Value{Value: -1} }, sec + ".run_as_user"},
		"passwd out of range":   {func(r *containerRequest) { security(r).RunAsUsername = "huge" }, sec + ".run_as_username"},
		"image's user unknown":  {func(r *containerRequest) { r.Image.User = "bob" }, "user of config.image"},
		"image's group unknown": {func(r *containerRequest) { r.Image.User = "web:bobs" }, "group of config.image"},
		"supplemental group":    {func(r *containerRequest) { security(r).SupplementalGroups = []int64{1, -1} }, sec + ".supplemental_groups[1]"},
		"groups policy":         {func(r *containerRequest) { security(r).SupplementalGroupsPolicy = 7 }, sec + ".supplemental_groups_policy"},
		"capability":            {func(r *containerRequest) { security(r).Capabilities = &v1.Capability{AddCapabilities: []string{"FLY"}} }, sec + ".capabilities.add_capabilities[0]"},
		"container's network":   {func(r *containerRequest) { setOptions(r, &v1.NamespaceOption{Network: 1}) }, sec + ".namespace_options.network"},
		"host network, pod's":   {func(r *containerRequest) { setOptions(r, &v1.NamespaceOption{Network: 2}) }, sec + ".namespace_options.network"},
		"host IPC, pod's":       {func(r *containerRequest) { setOptions(r, &v1.NamespaceOption{Ipc: 2}) }, sec + ".namespace_options.ipc"},
		"host PID, pod's":       {func(r *containerRequest) { setOptions(r, &v1.NamespaceOption{Pid: 2}) }, sec + ".namespace_options.pid"},
		"unknown PID mode":      {func(r *containerRequest) { setOptions(r, &v1.NamespaceOption{Pid: 8}) }, sec + ".namespace_options.pid"},
		"target without id":     {func(r *containerRequest) { setOptions(r, &v1.NamespaceOption{Pid: 3}) }, sec + ".namespace_options.target_id"},
		"id without target":     {func(r *containerRequest) { setOptions(r, &v1.NamespaceOption{TargetId: "x"}) }, sec + ".namespace_options.target_id"},
		"userns unlike the pod's": {func(r *containerRequest) {
			useUserNS(r)
			security(r).NamespaceOptions = nil
		}, sec + ".namespace_options.userns_options"},
	} {
		t.Run(name, func(t *testing.T) {
			r := testRequest()
			tc.change(&r)
			_, err := convertContainer(r)
			wantRefusal(t, err, errdefs.ErrInvalidArgument, tc.field)
		})
	}
}

func TestConvertContainerNotYet(t *testing.T) {
	for field, change := range map[string]func(*containerRequest){
		`sandbox_config.annotations["cdi.k8s.io/x"]`: func(r *containerRequest) {
			r.Sandbox.Annotations = map[string]string{"cdi.k8s.io/x": "vendor.example/net=a"}
		},
		`sandbox_config.annotations["rdt.resources.beta.kubernetes.io/pod"]`: func(r *containerRequest) {
			r.Sandbox.Annotations = map[string]string{"rdt.resources.beta.kubernetes.io/pod": "x"}
		},
	} {
		r := testRequest()
		change(&r)
		_, err := convertContainer(r)
		wantRefusal(t, err, errdefs.ErrNotImplemented, field)
	}
}

func setOptions(r *containerRequest, o *v1.NamespaceOption) {
	security(r).NamespaceOptions = o
}

// useUserNS gives pod and container a user namespace.
func useUserNS(r *containerRequest) {
	ids := []*v1.IDMapping{{HostId: 65536, Length: 65536}}
	o := &v1.NamespaceOption{UsernsOptions: &v1.UserNamespace{Uids: ids, Gids: ids}}
	security(r).NamespaceOptions, podSecurity(r).NamespaceOptions = o, o
}

func TestCommandLine(t *testing.T) {
	entry, cmd := []string{"entry"}, []string{"cmd"}
	for name, tc := range map[string]struct{ command, args, entry, cmd, want []string }{
		"image's":                 {nil, nil, entry, cmd, []string{"entry", "cmd"}},
		"arguments":               {nil, []string{"a"}, entry, cmd, []string{"entry", "a"}},
		"command":                 {[]string{"c"}, nil, entry, cmd, []string{"c"}},
		"both":                    {[]string{"c"}, []string{"a"}, entry, cmd, []string{"c", "a"}},
		"only cmd":                {nil, nil, nil, cmd, cmd},
		"cleared entrypoint":      {nil, nil, []string{""}, cmd, cmd},
		"arguments, nothing else": {nil, []string{"a"}, nil, nil, []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := testRequest()
			r.Config.Command, r.Config.Args = tc.command, tc.args
			r.Image = ocispec.ImageConfig{Entrypoint: tc.entry, Cmd: tc.cmd}
			if got := convert(t, r).Args; !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	r := testRequest()
	r.Sandbox.Hostname = ""
	r.Image.Env = []string{"PATH=/bin", "A=1", "nothing", "B=2"}
	r.Config.Envs = []*v1.KeyValue{{Key: "A", Value: []byte("x=y")}, {Key: "C"}, {Key: "C", Value: []byte("3")}}
	want := []string{"PATH=/bin", "HOSTNAME=node1", "A=x=y", "B=2", "C=3", "HOME=/root"}
	if got := convert(t, r).Env; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWorkingDirectory(t *testing.T) {
	for _, tc := range []struct{ request, image, want string }{
		{"", "", "/"}, {"", "/srv", "/srv"}, {"", "srv", "/srv"}, {"/mine", "/srv", "/mine"},
	} {
		r := testRequest()
		r.Config.WorkingDir, r.Image.WorkingDir = tc.request, tc.image
		if got := convert(t, r).Cwd; got != tc.want {
			t.Errorf("%q over %q: got %q", tc.request, tc.image, got)
		}
	}
}

func TestNoLog(t *testing.T) {
	r := testRequest()
	r.Sandbox.LogDirectory = ""
	if got := convert(t, r).LogPath; got != "" {
		t.Errorf("got %q", got)
	}
}

func TestSetPID(t *testing.T) {
	const pod, container, node, target = v1.NamespaceMode_POD, v1.NamespaceMode_CONTAINER, v1.NamespaceMode_NODE, v1.NamespaceMode_TARGET
	for _, tc := range []struct {
		own, pod v1.NamespaceMode
		want     runtime.NamespaceMode
	}{
		{pod, pod, runtime.NamespacePod},
		{pod, node, runtime.NamespaceNode},
		{pod, container, runtime.NamespaceContainer},
		{container, pod, runtime.NamespaceContainer},
		{container, node, runtime.NamespaceContainer},
		{node, node, runtime.NamespaceNode},
		{target, container, runtime.NamespaceTarget},
	} {
		r := testRequest()
		o := &v1.NamespaceOption{Pid: tc.own}
		if tc.own == target {
			o.TargetId = "c0"
		}
		setOptions(&r, o)
		podSecurity(&r).NamespaceOptions.Pid = tc.pod
		got := convert(t, r)
		if got.PID != tc.want || got.PIDTarget != o.TargetId {
			t.Errorf("%s in %s: got %s %q, want %s", tc.own, tc.pod, got.PID, got.PIDTarget, tc.want)
		}
	}
}

func TestConvertMounts(t *testing.T) {
	r := testRequest()
	useUserNS(&r)
	ids := []*v1.IDMapping{{HostId: 65536, Length: 10}}
	r.Config.Mounts = []*v1.Mount{
		{ContainerPath: "/a", HostPath: "/b", SelinuxRelabel: true, Propagation: 2, UidMappings: ids, GidMappings: ids, MountOptions: []string{"noexec"}},
		{ContainerPath: "/r", HostPath: "/b", Readonly: true, RecursiveReadOnly: true},
		{ContainerPath: "/i", Image: &v1.ImageSpec{Image: "vol"}, ImageSubPath: "x/y/", Readonly: true},
	}
	m := []specs.LinuxIDMapping{{HostID: 65536, Size: 10}}
	want := []runtime.Mount{
		{Destination: "/a", Source: "/b", SELinuxRelabel: true, Propagation: "rshared", UIDMappings: m, GIDMappings: m, Options: []string{"noexec"}},
		{Destination: "/r", Source: "/b", Readonly: true, RecursiveReadOnly: true, Propagation: "rprivate"},
		{Destination: "/i", Image: []digest.Digest{"sha256:v1"}, SubPath: "x/y", Readonly: true, Propagation: "rprivate"},
	}
	if got := convert(t, r).Mounts; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}

	r.Config.Mounts = []*v1.Mount{{ContainerPath: "/i", Image: &v1.ImageSpec{Image: "missing"}, Readonly: true}}
	if _, err := convertContainer(r); !errors.Is(err, errdefs.ErrNotFound) || !errors.Is(err, crierrors.ErrImageVolumeMountFailed) {
		t.Errorf("missing image volume: got %v", err)
	}
	r.Config.Mounts = []*v1.Mount{{ContainerPath: "/r", HostPath: "/b", Readonly: true, RecursiveReadOnly: true}}
	r.Host.RecursiveReadOnly = false
	if _, err := convertContainer(r); !errors.Is(err, crierrors.ErrRROUnsupported) || !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("handler without rro: got %v", err)
	}
}
