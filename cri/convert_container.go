package cri

import (
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/cdi"
	"github.com/cricket-cri/cricket/runtime"
)

const securityField = "config.linux.security_context"

// convertContainer checks a request and translates it for a sandbox. What cannot be
// honoured gives errdefs.ErrInvalidArgument or ErrNotImplemented with the field's path.
//
// Left to the caller: sources of mounts that do not exist have to be made as
// directories and symbolic links in them resolved, and files relabelled where a mount
// asks for it.
func convertContainer(r containerRequest) (runtime.Config, error) {
	if err := checkContainer(r); err != nil {
		return runtime.Config{}, err
	}
	sc := r.Config.GetLinux().GetSecurityContext()
	out := runtime.Config{
		ID:              r.ID,
		Image:           slices.Clone(r.Layers),
		Terminal:        r.Config.GetTty(),
		Stdin:           r.Config.GetStdin(),
		StdinOnce:       r.Config.GetStdinOnce(),
		LogPath:         logPath(r.Config, r.Sandbox),
		Privileged:      sc.GetPrivileged(),
		NoNewPrivileges: sc.GetNoNewPrivs(),
		ReadonlyRootfs:  sc.GetReadonlyRootfs(),
		MaskedPaths:     slices.Clone(sc.GetMaskedPaths()),
		ReadonlyPaths:   slices.Clone(sc.GetReadonlyPaths()),
		Annotations:     specAnnotations(r),
	}
	steps := []func(*runtime.Config, containerRequest) error{
		setProcess, setUser, setNamespaces, setResources, setCapabilities, setProfiles, setMounts, setDevices,
	}
	for _, step := range steps {
		if err := step(&out, r); err != nil {
			return runtime.Config{}, err
		}
	}
	return out, nil
}

// checkContainer checks what stands for itself.
func checkContainer(r containerRequest) error {
	c := r.Config
	switch {
	case c == nil:
		return badField("config", "is required")
	case r.Sandbox == nil:
		return badField("sandbox_config", "is required")
	case c.GetMetadata() == nil:
		return badField("config.metadata", "is required")
	case c.GetMetadata().GetName() == "":
		return badField("config.metadata.name", "is required")
	case c.GetImage().GetImage() == "":
		return badField("config.image.image", "is required")
	case c.GetWindows() != nil:
		return badField("config.windows", "this is a Linux node")
	}
	if err := checkAnnotations("config.annotations", c.GetAnnotations()); err != nil {
		return err
	}
	if err := checkPodAnnotations(r.Sandbox.GetAnnotations()); err != nil {
		return err
	}
	if name := c.GetLogPath(); name != "" && !filepath.IsLocal(name) {
		return badField("config.log_path", "%q leaves the log directory", name)
	}
	sc := c.GetLinux().GetSecurityContext()
	if sc.GetPrivileged() && !r.Sandbox.GetLinux().GetSecurityContext().GetPrivileged() {
		return badField(securityField+".privileged", "the sandbox is not privileged")
	}
	if err := checkAllAbsolute(securityField+".masked_paths", sc.GetMaskedPaths()); err != nil {
		return err
	}
	return checkAllAbsolute(securityField+".readonly_paths", sc.GetReadonlyPaths())
}

// checkPodAnnotations also refuses to hand out devices to a pod as a whole: it is
// containers that get them.
func checkPodAnnotations(annotations map[string]string) error {
	const field = "sandbox_config.annotations"
	for key := range annotations {
		if strings.HasPrefix(key, cdi.AnnotationPrefix) {
			return notYet(in(field, key))
		}
	}
	return checkAnnotations(field, annotations)
}

// checkAnnotations refuses those by which other runtimes are told to hand out cache and
// disk bandwidth: ignoring them would be silent.
func checkAnnotations(field string, annotations map[string]string) error {
	for key := range annotations {
		for _, prefix := range []string{
			"blockio.resources.beta.kubernetes.io/", "io.kubernetes.cri.blockio-class",
			"rdt.resources.beta.kubernetes.io/", "io.kubernetes.cri.rdt-class",
		} {
			if strings.HasPrefix(key, prefix) {
				return notYet(in(field, key))
			}
		}
	}
	return nil
}

// logPath is empty if either half is: then nothing is logged.
func logPath(c *v1.ContainerConfig, pod *v1.PodSandboxConfig) string {
	if c.GetLogPath() == "" || pod.GetLogDirectory() == "" {
		return ""
	}
	return filepath.Join(pod.GetLogDirectory(), c.GetLogPath())
}

// specAnnotations tell hooks and tools that read OCI specifications whose container it
// is, under the names that containerd gave them. The request's own annotations stay
// out: some OCI runtimes act on annotations.
func specAnnotations(r containerRequest) map[string]string {
	name := r.ImageName
	if n := r.Config.GetImage().GetUserSpecifiedImage(); n != "" {
		name = n
	}
	return map[string]string{
		"io.kubernetes.cri.container-type":    "container",
		"io.kubernetes.cri.container-name":    r.Config.GetMetadata().GetName(),
		"io.kubernetes.cri.image-name":        name,
		"io.kubernetes.cri.sandbox-id":        r.SandboxID,
		"io.kubernetes.cri.sandbox-name":      r.Sandbox.GetMetadata().GetName(),
		"io.kubernetes.cri.sandbox-namespace": r.Sandbox.GetMetadata().GetNamespace(),
		"io.kubernetes.cri.sandbox-uid":       r.Sandbox.GetMetadata().GetUid(),
	}
}

// setProcess merges command, environment and working directory with the image's.
func setProcess(out *runtime.Config, r containerRequest) (err error) {
	if out.Args, err = commandLine(r); err != nil {
		return err
	}
	if out.Env, err = environment(r); err != nil {
		return err
	}
	switch dir := r.Config.GetWorkingDir(); {
	case dir != "":
		if err := checkAbsolute("config.working_dir", dir); err != nil {
			return err
		}
		out.Cwd = dir
	default:
		out.Cwd = path.Join("/", r.Image.WorkingDir)
	}
	return nil
}

// commandLine: a command of the request replaces the image's entrypoint and its
// arguments, arguments of the request replace the image's arguments alone.
func commandLine(r containerRequest) ([]string, error) {
	command, args := r.Config.GetCommand(), r.Config.GetArgs()
	if len(command) == 0 {
		if len(args) == 0 {
			args = r.Image.Cmd
		}
		// An entrypoint of one empty word is how images clear an inherited one.
		if !slices.Equal(r.Image.Entrypoint, []string{""}) {
			command = r.Image.Entrypoint
		}
	}
	line := slices.Concat(command, args)
	if len(line) == 0 {
		return nil, badField("config.command", "there is none, and none in the image")
	}
	for _, word := range line {
		if strings.ContainsRune(word, 0) {
			return nil, badField("config.command", "holds a zero byte")
		}
	}
	return line, nil
}

// environment has the defaults, the image's variables and the request's; later ones
// replace earlier ones in their place.
func environment(r containerRequest) ([]string, error) {
	hostname := sandboxHostname(r.Sandbox, r.Host)
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if r.Config.GetTty() {
		env = append(env, "TERM=xterm")
	}
	env = append(env, "HOSTNAME="+hostname)
	for _, e := range r.Image.Env {
		if strings.Contains(e, "=") {
			env = setVariable(env, e)
		}
	}
	for i, e := range r.Config.GetEnvs() {
		entry := e.GetKey() + "=" + string(e.GetValue())
		switch {
		case e.GetKey() == "":
			return nil, badField(at("config.envs", i)+".key", "is required")
		case strings.ContainsAny(e.GetKey(), "=\x00"):
			return nil, badField(at("config.envs", i)+".key", "%q is no name of a variable", e.GetKey())
		case strings.ContainsRune(entry, 0):
			return nil, badField(at("config.envs", i)+".value", "holds a zero byte")
		}
		env = setVariable(env, entry)
	}
	return env, nil
}

func setVariable(env []string, entry string) []string {
	name, _, _ := strings.Cut(entry, "=")
	for i := range env {
		if strings.HasPrefix(env[i], name+"=") {
			env[i] = entry
			return env
		}
	}
	return append(env, entry)
}

func setResources(out *runtime.Config, r containerRequest) (err error) {
	out.Resources, err = convertResources("config.linux.resources", r.Config.GetLinux().GetResources(), r.Host)
	if out.Resources != nil {
		out.OOMScoreAdj = out.Resources.OOMScoreAdj
	}
	return err
}
