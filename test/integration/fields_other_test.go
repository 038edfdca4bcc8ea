package integration

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// TestRefusedFields: what cannot be honoured is refused by name. test/coverage checks that
// each error names its field by the path that it has within the request.
func TestRefusedFields(t *testing.T) {
	n := Start(t)
	id := n.Pull(images.Busybox)
	p := n.PodConfig()
	pod := n.RunPod(p)
	running := n.Run(pod, p, "sleep", "3600")
	refused := func(field string, err error) {
		t.Helper()
		switch status.Code(err) {
		case codes.InvalidArgument, codes.FailedPrecondition, codes.Unimplemented:
		default:
			t.Errorf("%s: the answer is %v", field, err)
			return
		}
		if last := field[strings.LastIndexByte(field, '.')+1:]; !strings.Contains(err.Error(), last) {
			t.Errorf("%s: the answer does not name it: %v", field, err)
		}
	}
	for field, change := range refusedInPods() {
		p := n.PodConfig()
		change(p)
		refused(field, n.tryRun(p).err)
	}
	for field, change := range refusedInContainers(id) {
		c := n.ContainerConfig("sleep", "3600")
		change(c)
		_, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
		refused(field, err)
	}
	huge := &cri.LinuxContainerResources{HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}}}
	for field, r := range map[string]*cri.UpdateContainerResourcesRequest{
		"windows":         {Windows: &cri.WindowsContainerResources{CpuCount: 1}},
		"hugepage_limits": {Linux: huge},
		"unified":         {Linux: unified()},
	} {
		if len(r.GetLinux().GetUnified()) > 0 && InVMs() {
			continue
		}
		r.ContainerId = running
		_, err := n.Runtime.UpdateContainerResources(t.Context(), r)
		refused(field, err)
	}
	for _, r := range []*cri.UpdatePodSandboxResourcesRequest{{Resources: huge}, {Overhead: huge}} {
		r.PodSandboxId = pod
		_, err := n.Runtime.UpdatePodSandboxResources(t.Context(), r)
		refused("hugepage_limits", err)
	}
	for field, r := range map[string]*cri.CheckpointContainerRequest{
		"location": {Location: "relative"}, "timeout": {Location: "/tmp/x", Timeout: -1},
	} {
		r.ContainerId = running
		_, err := n.Runtime.CheckpointContainer(t.Context(), r)
		refused(field, err)
	}
	if InVMs() {
		_, err := n.Runtime.CheckpointContainer(t.Context(), &cri.CheckpointContainerRequest{ContainerId: running, Location: filepath.Join(t.TempDir(), "x")})
		refused("container_id", err)
		if !strings.Contains(fmt.Sprint(err), "CheckpointPod") {
			t.Errorf("the refusal does not say what to do: %v", err)
		}
	}
	if !InVMs() { // TestVirtualCheckpoint is about these
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := n.Runtime.CheckpointPod(ctx, &cri.CheckpointPodRequest{PodSandboxId: pod, OutputPath: t.TempDir(), ContainerIds: []string{running}})
		WantCode(t, err, codes.Unimplemented)
		_, err = n.Runtime.RestorePod(ctx, &cri.RestorePodRequest{CheckpointPath: t.TempDir(), Config: p})
		WantCode(t, err, codes.Unimplemented)
	}
	_, err := n.Images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: images.Busybox, RuntimeHandler: "none"}})
	refused("image.runtime_handler", err)
	n.NoPanic()
}

func unified() *cri.LinuxContainerResources {
	return &cri.LinuxContainerResources{Unified: map[string]string{"memory.high": "100000000"}}
}

func shifted() *cri.NamespaceOption {
	ids := []*cri.IDMapping{{HostId: 1_400_000, ContainerId: 7, Length: 65536}}
	return &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER, UsernsOptions: &cri.UserNamespace{Uids: ids, Gids: ids}}
}

// onlyGroups has a good mapping of users, so that the one of groups is looked at.
func onlyGroups() *cri.NamespaceOption {
	o := shifted()
	o.UsernsOptions.Uids = mapping(1_400_000)
	return o
}

func refusedInPods() map[string]func(*cri.PodSandboxConfig) {
	type pod = *cri.PodSandboxConfig
	huge := []*cri.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}}
	all := map[string]func(pod){
		"config.windows":                  func(p pod) { p.Windows = &cri.WindowsPodSandboxConfig{} },
		"namespace_options.target_id":     func(p pod) { p.Linux.SecurityContext.NamespaceOptions.TargetId = "x" },
		"uids.container_id":               func(p pod) { p.Linux.SecurityContext.NamespaceOptions = shifted() },
		"gids.container_id":               func(p pod) { p.Linux.SecurityContext.NamespaceOptions = onlyGroups() },
		"linux.resources.hugepage_limits": func(p pod) { p.Linux.Resources = &cri.LinuxContainerResources{HugepageLimits: huge} },
		"linux.overhead.hugepage_limits":  func(p pod) { p.Linux.Overhead = &cri.LinuxContainerResources{HugepageLimits: huge} },
		"config.linux.resources.unified":  func(p pod) { p.Linux.Resources = unified() },
		"config.linux.overhead.unified":   func(p pod) { p.Linux.Overhead = unified() },
	}
	for name, option := range map[string]*cri.NamespaceOption{
		"network": {Network: cri.NamespaceMode_NODE}, "pid": {Pid: cri.NamespaceMode_NODE}, "ipc": {Ipc: cri.NamespaceMode_NODE},
	} {
		if InVMs() {
			all["namespace_options."+name] = func(p pod) { p.Linux.SecurityContext.NamespaceOptions = option }
		}
	}

	if InVMs() {
		delete(all, "config.linux.resources.unified")
		delete(all, "config.linux.overhead.unified")
	}
	return all
}

func refusedInContainers(image string) map[string]func(*cri.ContainerConfig) {
	type container = *cri.ContainerConfig
	security := func(sc *cri.LinuxContainerSecurityContext) func(container) {
		return func(c container) { c.Linux.SecurityContext = sc }
	}
	all := map[string]func(container){
		"config.windows":    func(c container) { c.Windows = &cri.WindowsContainerConfig{} },
		"uids.container_id": security(&cri.LinuxContainerSecurityContext{NamespaceOptions: shifted()}),
		"gids.container_id": security(&cri.LinuxContainerSecurityContext{NamespaceOptions: onlyGroups()}),
		"hugepage_limits": func(c container) {
			c.Linux.Resources = &cri.LinuxContainerResources{HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}}}
		},
		"image.runtime_handler": func(c container) { c.Image.RuntimeHandler = "none" },
		"image.image_ref":       func(c container) { c.Image.ImageRef = "sha256:" + strings.Repeat("0", 64) },
		"mounts.image.image_ref": func(c container) {
			c.Mounts = []*cri.Mount{{ContainerPath: "/x", Readonly: true, Image: &cri.ImageSpec{Image: image, ImageRef: "sha256:" + strings.Repeat("1", 64)}}}
		},
		"apparmor":                    security(&cri.LinuxContainerSecurityContext{Apparmor: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "none"}}),
		"apparmor_profile":            security(&cri.LinuxContainerSecurityContext{ApparmorProfile: "localhost/none"}), //nolint:staticcheck // deprecated, and refused all the same
		"security_context.privileged": security(&cri.LinuxContainerSecurityContext{Privileged: true}),
	}
	if InVMs() {
		all["devices"] = func(c container) {
			c.Devices = []*cri.Device{{HostPath: "/dev/null", ContainerPath: "/dev/mine", Permissions: "rw"}}
		}
		host := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}
		all["namespace_options.network"] = security(&cri.LinuxContainerSecurityContext{NamespaceOptions: host})
		all["namespace_options.ipc"] = security(&cri.LinuxContainerSecurityContext{NamespaceOptions: &cri.NamespaceOption{Ipc: cri.NamespaceMode_NODE}})
	} else {
		all["unified"] = func(c container) { c.Linux.Resources = unified() }
	}
	return all
}

// TestTokens: each kind of token of a pull gets through to the registry.
func TestTokens(t *testing.T) {
	n := Start(t)
	r, host := n.private(func(address string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, req *http.Request) bool {
			if req.URL.Path == "/token" {
				if req.Method != http.MethodPost || req.FormValue("grant_type") != "refresh_token" || req.FormValue("refresh_token") != "the-identity" {
					w.WriteHeader(http.StatusUnauthorized)
					return true
				}
				fmt.Fprint(w, `{"access_token":"the-token","expires_in":300}`)
				return true
			}
			if got := req.Header.Get("Authorization"); got == "Bearer the-token" || got == "Bearer the-registry-token" {
				return false
			}
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, address))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
	})
	name := n.add(r, host, "tokens", 1000)
	for _, auth := range []*cri.AuthConfig{{IdentityToken: "the-identity"}, {RegistryToken: "the-registry-token", ServerAddress: "http://" + host}} {
		if _, err := n.Images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: name, RuntimeHandler: n.handlers(InVMs())[0]}, Auth: auth}); err != nil {
			t.Errorf("pull: %v", err)
		}
		if _, err := n.Images.RemoveImage(t.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: name}}); err != nil {
			t.Error(err)
		}
	}
	_, err := n.Images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: name}, Auth: &cri.AuthConfig{IdentityToken: "another"}})
	WantCode(t, err, codes.Unauthenticated)
}

// TestAnswers: what the daemon says of itself and of images.
func TestAnswers(t *testing.T) {
	n := Start(t)
	v, err := n.Runtime.Version(t.Context(), &cri.VersionRequest{Version: "0.1.0"})
	if err != nil || v.GetVersion() != "0.1.0" || v.GetRuntimeName() != "cricket" || v.GetRuntimeApiVersion() != "v1" || v.GetRuntimeVersion() == "" {
		t.Errorf("the version is %v, %v", v, err)
	}
	c, err := n.Runtime.RuntimeConfig(t.Context(), &cri.RuntimeConfigRequest{})
	if err != nil || c.GetLinux().GetCgroupDriver() != cri.CgroupDriver_CGROUPFS {
		t.Errorf("the configuration is %v, %v", c, err)
	}
	s, err := n.Runtime.Status(t.Context(), &cri.StatusRequest{Verbose: true})
	if err != nil || s.GetInfo()["operations"] == "" {
		t.Errorf("the verbose status is %v, %v", s, err)
	}
	if plain, err := n.Runtime.Status(t.Context(), &cri.StatusRequest{}); err != nil || len(plain.GetInfo()) != 0 || !plain.GetFeatures().GetSupplementalGroupsPolicy() {
		t.Errorf("the status is %v, %v", plain, err)
	}
	for _, h := range s.GetRuntimeHandlers() {
		if slices.Contains(n.handlers(InVMs()), h.GetName()) && (!h.GetFeatures().GetRecursiveReadOnlyMounts() || !h.GetFeatures().GetUserNamespaces()) {
			t.Errorf("handler %s has %v", h.GetName(), h.GetFeatures())
		}
	}
	m, err := n.Runtime.ListMetricDescriptors(t.Context(), &cri.ListMetricDescriptorsRequest{})
	if err != nil || len(m.GetDescriptors()) == 0 {
		t.Fatalf("the metrics are %v, %v", m, err)
	}
	for _, d := range m.GetDescriptors() {
		if d.GetName() == "" || d.GetHelp() == "" || len(d.GetLabelKeys()) == 0 {
			t.Errorf("a metric is %v", d)
		}
	}
	const image = "gcr.io/k8s-staging-cri-tools/test-image-predefined-group:latest"
	id := n.Pull(image)
	i, err := n.Images.ImageStatus(t.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: image}, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	got := i.GetImage()
	if got.GetId() != id || got.GetUid().GetValue() != 1000 || got.GetSize() == 0 || len(got.GetRepoTags()) != 1 || len(got.GetRepoDigests()) != 1 || got.GetSpec().GetImage() != id {
		t.Errorf("the image is %v", got)
	}
	const named = "gcr.io/k8s-staging-cri-tools/test-image-user-username:latest"
	n.Pull(named)
	if r, err := n.Images.ImageStatus(t.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: named}}); err != nil || r.GetImage().GetUsername() != "www-data" {
		t.Errorf("the image of a user's name is %v, %v", r, err)
	}
	if !strings.Contains(i.GetInfo()["info"], "layers") {
		t.Errorf("the verbose image is %v", i.GetInfo())
	}
	f, err := n.Images.ImageFsInfo(t.Context(), &cri.ImageFsInfoRequest{})
	if err != nil || len(f.GetImageFilesystems()) != 1 || len(f.GetContainerFilesystems()) != 1 || f.GetImageFilesystems()[0].GetUsedBytes().GetValue() == 0 {
		t.Errorf("the file systems are %v, %v", f, err)
	}
}
