package integration

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// hostile are ids and names that lead nowhere.
var hostile = []string{
	"", "nothing", "../../../etc", "/", ".", "*", "\x00", "a\nb", strings.Repeat("f", 64),
	strings.Repeat("x", 1<<20), "sha256:" + strings.Repeat("0", 64), "%s%n", "日本", " ",
}

// byID calls every RPC that takes the id of a pod or container. missing is what an id
// without an object answers.
func (n *Node) byID() map[string]struct {
	call    func(context.Context, string) error
	missing codes.Code
} {
	type entry = struct {
		call    func(context.Context, string) error
		missing codes.Code
	}
	r := n.Runtime
	return map[string]entry{
		"StopPodSandbox": {func(ctx context.Context, id string) error {
			_, err := r.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id})
			return err
		}, codes.OK},
		"RemovePodSandbox": {func(ctx context.Context, id string) error {
			_, err := r.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
			return err
		}, codes.OK},
		"PodSandboxStatus": {func(ctx context.Context, id string) error {
			_, err := r.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: id})
			return err
		}, codes.NotFound},
		"PodSandboxStats": {func(ctx context.Context, id string) error {
			_, err := r.PodSandboxStats(ctx, &cri.PodSandboxStatsRequest{PodSandboxId: id})
			return err
		}, codes.NotFound},
		"UpdatePodSandboxResources": {func(ctx context.Context, id string) error {
			_, err := r.UpdatePodSandboxResources(ctx, &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: id})
			return err
		}, codes.NotFound},
		"PortForward": {func(ctx context.Context, id string) error {
			_, err := r.PortForward(ctx, &cri.PortForwardRequest{PodSandboxId: id, Port: []int32{80}})
			return err
		}, codes.NotFound},
		"CreateContainer": {func(ctx context.Context, id string) error {
			_, err := r.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: id, Config: n.ContainerConfig("true"), SandboxConfig: &cri.PodSandboxConfig{}})
			return err
		}, codes.NotFound},
		"StartContainer": {func(ctx context.Context, id string) error {
			_, err := r.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id})
			return err
		}, codes.NotFound},
		"StopContainer": {func(ctx context.Context, id string) error {
			_, err := r.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id})
			return err
		}, codes.OK},
		"RemoveContainer": {func(ctx context.Context, id string) error {
			_, err := r.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id})
			return err
		}, codes.OK},
		"ContainerStatus": {func(ctx context.Context, id string) error {
			_, err := r.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
			return err
		}, codes.NotFound},
		"ContainerStats": {func(ctx context.Context, id string) error {
			_, err := r.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: id})
			return err
		}, codes.NotFound},
		"UpdateContainerResources": {func(ctx context.Context, id string) error {
			_, err := r.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: &cri.LinuxContainerResources{CpuShares: 10}})
			return err
		}, codes.NotFound},
		"ReopenContainerLog": {func(ctx context.Context, id string) error {
			_, err := r.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: id})
			return err
		}, codes.NotFound},
		"ExecSync": {func(ctx context.Context, id string) error {
			_, err := r.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})
			return err
		}, codes.NotFound},
		"Exec": {func(ctx context.Context, id string) error {
			_, err := r.Exec(ctx, &cri.ExecRequest{ContainerId: id, Cmd: []string{"true"}, Stdout: true})
			return err
		}, codes.NotFound},
		"Attach": {func(ctx context.Context, id string) error {
			_, err := r.Attach(ctx, &cri.AttachRequest{ContainerId: id, Stdout: true})
			return err
		}, codes.NotFound},
	}
}

// TestWrongIDs: no id leads to somebody else's object, however few there are.
func TestWrongIDs(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	pod, id, _ := n.Sleeper()
	for name, rpc := range n.byID() {
		for _, h := range hostile {
			err := rpc.call(t.Context(), h)
			code := status.Code(err)
			if code != rpc.missing && code != codes.InvalidArgument && (code != codes.NotFound || h != "") {
				t.Errorf("%s of %.20q answers %.200v, want %v", name, h, err, rpc.missing)
			}
		}
	}
	if s := n.Status(id).GetState(); s != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container is %s", s)
	}
	r, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || r.GetStatus().GetState() != cri.PodSandboxState_SANDBOX_READY {
		t.Errorf("the pod's status is %v, %v", r, err)
	}
	wrongState(t, n)
	n.NoPanic()
}

// wrongState: what a container's state does not allow is a failed precondition.
func wrongState(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	created := n.Create(pod, p, n.ContainerConfig("true"))
	exited := n.Run(pod, p, "true")
	n.Exited(exited, settle)
	calls := n.byID()
	for name, ids := range map[string][]string{
		"StartContainer": {exited}, "ReopenContainerLog": {created, exited}, "ExecSync": {created, exited},
		"Exec": {created, exited}, "Attach": {created, exited}, "UpdateContainerResources": {exited},
	} {
		for _, id := range ids {
			err := calls[name].call(t.Context(), id)
			if status.Code(err) != codes.FailedPrecondition {
				t.Errorf("%s of a %s container answers %v", name, n.Status(id).GetState(), err)
			}
		}
	}
	if err := calls["StopPodSandbox"].call(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"PortForward", "CreateContainer", "UpdatePodSandboxResources"} {
		err := calls[name].call(t.Context(), pod)
		if status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%s of a stopped pod answers %v", name, err)
		}
	}
	for _, name := range []string{"StopPodSandbox", "RemovePodSandbox", "RemovePodSandbox"} {
		if err := calls[name].call(t.Context(), pod); err != nil {
			t.Errorf("%s again answers %v", name, err)
		}
	}
}

// TestBadPods: each mistake is InvalidArgument and names its field; nothing stays behind.
func TestBadPods(t *testing.T) {
	n := Start(t)
	sec := func(p *cri.PodSandboxConfig) *cri.LinuxSandboxSecurityContext {
		return p.GetLinux().GetSecurityContext()
	}
	for field, change := range map[string]func(*cri.PodSandboxConfig){
		"metadata":                  func(p *cri.PodSandboxConfig) { p.Metadata = nil },
		"metadata.name":             func(p *cri.PodSandboxConfig) { p.Metadata.Name = "" },
		"metadata.uid":              func(p *cri.PodSandboxConfig) { p.Metadata.Uid = "" },
		"config.metadata.name":      func(p *cri.PodSandboxConfig) { p.Metadata.Name = "a\x00b" },
		"config.metadata.namespace": func(p *cri.PodSandboxConfig) { p.Metadata.Namespace = "a;K8S_POD_UID=b" },
		"log_directory":             func(p *cri.PodSandboxConfig) { p.LogDirectory = "relative/dir" },
		"hostname":                  func(p *cri.PodSandboxConfig) { p.Hostname = strings.Repeat("h", 65) },
		"host_port": func(p *cri.PodSandboxConfig) {
			p.PortMappings = []*cri.PortMapping{{HostPort: 70000, ContainerPort: 80}}
		},
		"container_port": func(p *cri.PodSandboxConfig) {
			p.PortMappings = []*cri.PortMapping{{HostPort: 8000, ContainerPort: -1}}
		},
		"host_ip": func(p *cri.PodSandboxConfig) {
			p.PortMappings = []*cri.PortMapping{{HostPort: 8000, ContainerPort: 1, HostIp: "nonsense"}}
		},
		"protocol": func(p *cri.PodSandboxConfig) {
			p.PortMappings = []*cri.PortMapping{{HostPort: 8000, ContainerPort: 1, Protocol: 77}}
		},
		"sysctls":               func(p *cri.PodSandboxConfig) { p.Linux.Sysctls = map[string]string{"kernel.panic": "1"} },
		"sysctls[":              func(p *cri.PodSandboxConfig) { p.Linux.Sysctls = map[string]string{"net/../kernel.panic": "1"} },
		"options":               func(p *cri.PodSandboxConfig) { sec(p).NamespaceOptions.Network = 9 },
		"namespace_options.pid": func(p *cri.PodSandboxConfig) { sec(p).NamespaceOptions.Pid = cri.NamespaceMode_TARGET },
		"userns": func(p *cri.PodSandboxConfig) {
			sec(p).NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD}
		},
		"uids": func(p *cri.PodSandboxConfig) {
			sec(p).NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD,
				Uids: []*cri.IDMapping{{HostId: 100000, Length: 0}}, Gids: []*cri.IDMapping{{HostId: 100000, Length: 65536}}}
		},
		"run_as_group": func(p *cri.PodSandboxConfig) { sec(p).RunAsGroup = &cri.Int64Value{Value: -5} },
	} {
		p := n.PodConfig()
		change(p)
		r, err := n.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: p})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), strings.TrimSuffix(field, "[")) {
			t.Errorf("a bad %s answers %v %v", field, r, err)
		}
	}
	_, err := n.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{})
	WantCode(t, err, codes.InvalidArgument)
	_, err = n.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: n.PodConfig(), RuntimeHandler: "none"})
	WantCode(t, err, codes.InvalidArgument)
	n.NoPanic()
}

func TestBadContainers(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	p := n.PodConfig()
	pod := n.RunPod(p)
	for field, change := range map[string]func(*cri.ContainerConfig){
		"metadata":       func(c *cri.ContainerConfig) { c.Metadata = nil },
		"metadata.name":  func(c *cri.ContainerConfig) { c.Metadata.Name = "" },
		"image":          func(c *cri.ContainerConfig) { c.Image = nil },
		"log_path":       func(c *cri.ContainerConfig) { c.LogPath = "../../../escape.log" },
		"working_dir":    func(c *cri.ContainerConfig) { c.WorkingDir = "relative" },
		"envs":           func(c *cri.ContainerConfig) { c.Envs = []*cri.KeyValue{{Key: "", Value: []byte("x")}} },
		"envs[0]":        func(c *cri.ContainerConfig) { c.Envs = []*cri.KeyValue{{Key: "a=b\x00", Value: []byte("x")}} },
		"container_path": func(c *cri.ContainerConfig) { c.Mounts = []*cri.Mount{{HostPath: "/tmp"}} },
		"mounts":         func(c *cri.ContainerConfig) { c.Mounts = []*cri.Mount{{ContainerPath: "/x"}} },
		"propagation": func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{ContainerPath: "/x", HostPath: "/tmp", Propagation: 9}}
		},
		"recursive_read_only": func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{ContainerPath: "/x", HostPath: "/tmp", RecursiveReadOnly: true}}
		},
		"devices": func(c *cri.ContainerConfig) {
			c.Devices = []*cri.Device{{ContainerPath: "/dev/x", HostPath: "/dev/null", Permissions: "xyz"}}
		},
		"run_as": func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{RunAsUser: &cri.Int64Value{Value: 1}, RunAsUsername: "root"}
		},
		"run_as_group": func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{RunAsGroup: &cri.Int64Value{Value: 1}}
		},
		"capabilities": func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{Capabilities: &cri.Capability{AddCapabilities: []string{"FLY"}}}
		},
		"seccomp": func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{Seccomp: &cri.SecurityProfile{
				ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "relative"}}
		},
		"masked_paths": func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{MaskedPaths: []string{"relative"}}
		},
		"memory_limit": func(c *cri.ContainerConfig) { c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: -7} },
		"cpuset_cpus":  func(c *cri.ContainerConfig) { c.Linux.Resources = &cri.LinuxContainerResources{CpusetCpus: "a-b"} },
		"stop_signal":  func(c *cri.ContainerConfig) { c.StopSignal = 4242 },
		"hugepage": func(c *cri.ContainerConfig) {
			c.Linux.Resources = &cri.LinuxContainerResources{HugepageLimits: []*cri.HugepageLimit{{PageSize: "x", Limit: 1}}}
		},
		"oom_score_adj": func(c *cri.ContainerConfig) { c.Linux.Resources = &cri.LinuxContainerResources{OomScoreAdj: 5000} },
		"target_id":     func(c *cri.ContainerConfig) { c.Linux.SecurityContext = targetOf("nothing") },
		"image_sub_path": func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{ContainerPath: "/x", ImageSubPath: "../..", Readonly: true, Image: &cri.ImageSpec{Image: images.Busybox}}}
		},
	} {
		c := n.ContainerConfig("sleep", "3600")
		change(c)
		r, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
		code := status.Code(err)
		right := code == codes.InvalidArgument || field == "target_id" && code == codes.NotFound
		if !right || !strings.Contains(err.Error(), field) {
			t.Errorf("a bad %s answers %v %v", field, r, err)
		}
	}
	targets(t, n, pod, p)
	absent(t, n, pod, p)
	n.NoPanic()
}

func targetOf(id string) *cri.LinuxContainerSecurityContext {
	return &cri.LinuxContainerSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: id}}
}

// targets: only processes of running containers of the same pod can be shared.
func targets(t *testing.T, n *Node, pod string, p *cri.PodSandboxConfig) {
	_, stranger, _ := n.Sleeper()
	created := n.Create(pod, p, n.ContainerConfig("sleep", "3600"))
	for id, want := range map[string]codes.Code{stranger: codes.InvalidArgument, created: codes.FailedPrecondition} {
		c := n.ContainerConfig("sleep", "3600")
		c.Linux.SecurityContext = targetOf(id)
		_, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
		WantCode(t, err, want)
	}
}

// absent: what a container needs is not there, or cannot run.
func absent(t *testing.T, n *Node, pod string, p *cri.PodSandboxConfig) {
	create := func(change func(*cri.ContainerConfig)) (string, error) {
		c := n.ContainerConfig("sleep", "3600")
		change(c)
		r, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
		return r.GetContainerId(), err
	}
	_, err := create(func(c *cri.ContainerConfig) { c.Image.Image = "registry.k8s.io/none:1" })
	WantCode(t, err, codes.NotFound)
	for name, change := range map[string]func(*cri.ContainerConfig){
		"program":   func(c *cri.ContainerConfig) { c.Command = []string{"/no/such/program"} },
		"no entry":  func(c *cri.ContainerConfig) { c.Command = []string{""} },
		"directory": func(c *cri.ContainerConfig) { c.Command = []string{"/etc"} },
		"zero byte": func(c *cri.ContainerConfig) { c.Args = []string{"a\x00b"} },
		"user": func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{RunAsUsername: "nobody-here"}
		},
		"device": func(c *cri.ContainerConfig) {
			c.Devices = []*cri.Device{{HostPath: "/dev/none", ContainerPath: "/dev/x", Permissions: "r"}}
		},
		"cpuset": func(c *cri.ContainerConfig) { c.Linux.Resources = &cri.LinuxContainerResources{CpusetCpus: "4000"} },
		"mount over a file": func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: "/tmp", ContainerPath: "/etc/passwd"}}
		},
	} {
		if !partApplies(t, name) {
			continue
		}
		id, err := create(change)
		if err == nil {
			_, err = n.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: id})
		}
		switch status.Code(err) {
		case codes.InvalidArgument, codes.FailedPrecondition, codes.NotFound:
		default:
			t.Errorf("a container with a bad %s answers %.300v", name, err)
		}
	}
	_, id, _ := n.Sleeper()
	for _, cmd := range [][]string{nil, {""}, {"/no/such/program"}, {"/etc"}, {"a\x00b"}} {
		_, err := n.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: cmd, Timeout: 5})
		switch status.Code(err) {
		case codes.InvalidArgument, codes.FailedPrecondition, codes.NotFound:
		default:
			t.Errorf("exec of %.20q answers %.300v", cmd, err)
		}
	}
	_, err = n.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}, Timeout: -1})
	WantCode(t, err, codes.InvalidArgument)
	_, err = n.Runtime.Exec(t.Context(), &cri.ExecRequest{ContainerId: id, Cmd: []string{"sh"}, Tty: true, Stdout: true, Stderr: true})
	WantCode(t, err, codes.InvalidArgument)
	_, err = n.Runtime.Exec(t.Context(), &cri.ExecRequest{ContainerId: id, Cmd: []string{"sh"}})
	WantCode(t, err, codes.InvalidArgument)
	_, err = n.Runtime.UpdateRuntimeConfig(t.Context(), &cri.UpdateRuntimeConfigRequest{RuntimeConfig: &cri.RuntimeConfig{NetworkConfig: &cri.NetworkConfig{PodCidr: "nonsense"}}})
	WantCode(t, err, codes.InvalidArgument)
	for _, ref := range []string{"", "UPPER", "a b", "x@sha256:short", strings.Repeat("x", 1<<16), "../../x", "\x00"} {
		_, err := n.Images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}})
		WantCode(t, err, codes.InvalidArgument)
	}
}
