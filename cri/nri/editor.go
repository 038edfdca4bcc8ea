package nri

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// editor changes an OCI specification in the verbs that the NRI module's generator asks
// for (generate.UnderlyingGenerator): those of opencontainers/runtime-tools, which drags in
// a validator.
type editor struct{ s *specs.Spec }

func (e editor) Spec() *specs.Spec { return e.s }

// ensure is the value that p points to, made if there is none.
func ensure[T any](p **T) *T {
	if *p == nil {
		*p = new(T)
	}
	return *p
}

func (e editor) process() *specs.Process          { return ensure(&e.s.Process) }
func (e editor) linux() *specs.Linux              { return ensure(&e.s.Linux) }
func (e editor) hooks() *specs.Hooks              { return ensure(&e.s.Hooks) }
func (e editor) resources() *specs.LinuxResources { return ensure(&e.linux().Resources) }
func (e editor) cpu() *specs.LinuxCPU             { return ensure(&e.resources().CPU) }
func (e editor) memory() *specs.LinuxMemory       { return ensure(&e.resources().Memory) }

// put adds to a map that may be nil.
func put(m *map[string]string, key, value string) {
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[key] = value
}

func (e editor) AddAnnotation(key, value string)  { put(&e.s.Annotations, key, value) }
func (e editor) RemoveAnnotation(key string)      { delete(e.s.Annotations, key) }
func (e editor) AddLinuxSysctl(key, value string) { put(&e.linux().Sysctl, key, value) }
func (e editor) RemoveLinuxSysctl(key string)     { delete(e.linux().Sysctl, key) }
func (e editor) SetProcessArgs(args []string)     { e.process().Args = slices.Clone(args) }
func (e editor) ClearProcessEnv()                 { e.process().Env = nil }
func (e editor) SetProcessOOMScoreAdj(adj int)    { e.process().OOMScoreAdj = &adj }
func (e editor) SetLinuxCgroupsPath(path string)  { e.linux().CgroupsPath = path }

func (e editor) AddProcessEnv(name, value string) {
	p, entry := e.process(), name+"="+value
	at := slices.IndexFunc(p.Env, func(s string) bool { return strings.HasPrefix(s, name+"=") })
	if at < 0 {
		p.Env = append(p.Env, entry)
		return
	}
	p.Env[at] = entry
}

func (e editor) AddDevice(d specs.LinuxDevice) {
	e.RemoveDevice(d.Path)
	e.linux().Devices = append(e.linux().Devices, d)
}

func (e editor) RemoveDevice(path string) {
	l := e.linux()
	l.Devices = slices.DeleteFunc(l.Devices, func(d specs.LinuxDevice) bool { return d.Path == path })
}

func (e editor) AddLinuxResourcesDevice(allow bool, kind string, major, minor *int64, access string) {
	r := e.resources()
	r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: major, Minor: minor, Access: access})
}

func (e editor) Mounts() []specs.Mount  { return e.s.Mounts }
func (e editor) ClearMounts()           { e.s.Mounts = nil }
func (e editor) AddMount(m specs.Mount) { e.s.Mounts = append(e.s.Mounts, m) }
func (e editor) RemoveMount(at string)  { e.s.Mounts = slices.DeleteFunc(e.s.Mounts, mountedAt(at)) }
func mountedAt(at string) func(specs.Mount) bool {
	return func(m specs.Mount) bool { return m.Destination == at }
}

func (e editor) AddOrReplaceLinuxNamespace(name, path string) error {
	t, err := namespaceType(name)
	if err != nil {
		return err
	}
	l := e.linux()
	n := specs.LinuxNamespace{Type: t, Path: path}
	if at := slices.IndexFunc(l.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == t }); at >= 0 {
		l.Namespaces[at] = n
		return nil
	}
	l.Namespaces = append(l.Namespaces, n)
	return nil
}

func (e editor) RemoveLinuxNamespace(name string) error {
	t, err := namespaceType(name)
	if err != nil {
		return err
	}
	l := e.linux()
	l.Namespaces = slices.DeleteFunc(l.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == t })
	return nil
}

func namespaceType(name string) (specs.LinuxNamespaceType, error) {
	t := specs.LinuxNamespaceType(name)
	switch t {
	case specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace,
		specs.UTSNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace:
		return t, nil
	}
	return "", fmt.Errorf("linux.namespaces: %q is no type of namespace: %w", name, errdefs.ErrInvalidArgument)
}

func (e editor) SetLinuxRootPropagation(p string) error {
	switch strings.TrimPrefix(p, "r") {
	case "", "private", "slave", "shared", "unbindable":
		e.linux().RootfsPropagation = p
		return nil
	}
	return fmt.Errorf("linux.rootfsPropagation: %q: %w", p, errdefs.ErrInvalidArgument)
}

func (e editor) AddPreStartHook(h specs.Hook) {
	e.hooks().Prestart = append(e.hooks().Prestart, h) //nolint:staticcheck // deprecated, but in use
}

func (e editor) AddPostStartHook(h specs.Hook) { e.hooks().Poststart = append(e.hooks().Poststart, h) }
func (e editor) AddPostStopHook(h specs.Hook)  { e.hooks().Poststop = append(e.hooks().Poststop, h) }

func (e editor) AddLinuxResourcesHugepageLimit(size string, limit uint64) {
	r := e.resources()
	r.HugepageLimits = slices.DeleteFunc(r.HugepageLimits, func(l specs.LinuxHugepageLimit) bool { return l.Pagesize == size })
	r.HugepageLimits = append(r.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: limit})
}

func (e editor) AddLinuxResourcesUnified(key, value string) { put(&e.resources().Unified, key, value) }
func (e editor) SetLinuxResourcesCPUShares(v uint64)        { e.cpu().Shares = &v }
func (e editor) SetLinuxResourcesCPUQuota(v int64)          { e.cpu().Quota = &v }
func (e editor) SetLinuxResourcesCPUPeriod(v uint64)        { e.cpu().Period = &v }
func (e editor) SetLinuxResourcesCPUCpus(v string)          { e.cpu().Cpus = v }
func (e editor) SetLinuxResourcesCPUMems(v string)          { e.cpu().Mems = v }
func (e editor) SetLinuxResourcesMemoryLimit(v int64)       { e.memory().Limit = &v }
func (e editor) SetLinuxResourcesMemorySwap(v int64)        { e.memory().Swap = &v }

func (e editor) SetLinuxResourcesCPURealtimeRuntime(v int64) { e.cpu().RealtimeRuntime = &v }
func (e editor) SetLinuxResourcesCPURealtimePeriod(v uint64) { e.cpu().RealtimePeriod = &v }
