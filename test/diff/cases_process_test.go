package diff

import (
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// resources are limits.
func resources() []testCase {
	with := func(name string, l *cri.LinuxContainerResources) testCase {
		return testCase{"resources/" + name, func(r *request) { r.container.Linux.Resources = l }}
	}
	burstable := &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 256, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 985}
	return []testCase{
		with("none", nil),
		with("burstable", burstable),
		with("guaranteed", &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 100000, CpuShares: 1024, MemoryLimitInBytes: 64 << 20, OomScoreAdj: -997}),
		with("processors", &cri.LinuxContainerResources{CpusetCpus: "1", CpusetMems: "0"}),
		with("processors-missing", &cri.LinuxContainerResources{CpusetCpus: "77"}),
		with("memory-tiny", &cri.LinuxContainerResources{MemoryLimitInBytes: 4096}),
		with("swap", &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 128 << 20}),
		with("unified", &cri.LinuxContainerResources{Unified: map[string]string{"memory.high": "1000000000"}}),
		with("huge-pages", &cri.LinuxContainerResources{HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}}}),
		with("quota-alone", &cri.LinuxContainerResources{CpuQuota: 20000}),
		{"resources/update", func(r *request) {
			r.container.Linux.Resources = burstable
			r.update = &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 80000, CpuShares: 512, MemoryLimitInBytes: 96 << 20, OomScoreAdj: 985}
		}},
		{"resources/update-in-part", func(r *request) {
			r.container.Linux.Resources = burstable
			r.update = &cri.LinuxContainerResources{CpuShares: 512}
		}},
		{"resources/no-cgroup-parent", func(r *request) { r.pod.Linux.CgroupParent = "" }},
	}
}

// processes are command, environment, directory and terminal.
func processes() []testCase {
	pair := func(k, v string) *cri.KeyValue { return &cri.KeyValue{Key: k, Value: []byte(v)} }
	return []testCase{
		{"process/image-settings", func(r *request) { r.container.Image.Image = imageSettled }},
		{"process/environment", func(r *request) {
			r.container.Image.Image = imageSettled
			r.container.Envs = []*cri.KeyValue{
				pair("REPLACED", "request"), pair("NEW", "a=b"), pair("NONE", ""), pair("NEW", "again"), pair("LINES", "a\nb"), pair("FROM_POD", "$(NEW)"),
			}
		}},
		{"process/environment-no-name", func(r *request) { r.container.Envs = []*cri.KeyValue{pair("", "x")} }},
		{"process/environment-home", func(r *request) {
			r.container.Envs = []*cri.KeyValue{pair("HOME", "/own")}
			r.security().RunAsUser = id(1000)
		}},
		{"process/command-of-image", func(r *request) { r.container.Image.Image = imageCommand; r.ends = true }},
		{"process/arguments", func(r *request) {
			r.container.Image.Image, r.container.Args, r.ends = imageCommand, []string{"of", "request"}, true
		}},
		{"process/command", func(r *request) {
			r.container.Image.Image = imageCommand
			r.runs("echo", "of", "request")
		}},
		{"process/no-command", func(r *request) { r.container.Image.Image = imageNothing }},
		{"process/directory", func(r *request) { r.container.WorkingDir = "/tmp" }},
		{"process/directory-missing", func(r *request) { r.container.WorkingDir = "/made/for/it"; r.security().RunAsUser = id(1000) }},
		{"process/directory-relative", func(r *request) { r.container.WorkingDir = "made" }},
		{"process/directory-a-file", func(r *request) { r.container.WorkingDir = "/etc/passwd" }},
		{"process/terminal", func(r *request) { r.container.Tty, r.container.Stdin = true, true }},
		{"process/terminal-as-user", func(r *request) { r.container.Tty, r.security().RunAsUser = true, id(1000) }},
		{"process/input", func(r *request) { r.container.Stdin = true }},
		{"process/input-once", func(r *request) { r.container.Stdin, r.container.StdinOnce = true, true }},
		{"process/labels", func(r *request) {
			r.container.Labels = map[string]string{"a": "b", "empty": ""}
			r.container.Annotations = map[string]string{"c": "d", "lines": "e\nf"}
			r.pod.Labels, r.pod.Annotations = r.container.Labels, r.container.Annotations
			r.container.Metadata.Attempt, r.pod.Metadata.Attempt = 7, 3
		}},
		{"process/ports", func(r *request) {
			r.pod.PortMappings = []*cri.PortMapping{{ContainerPort: 80, HostPort: 18081}, {ContainerPort: 81, Protocol: cri.Protocol_UDP}}
		}},
	}
}

// commands are ExecSync.
func commands() []testCase {
	with := func(name string, commands ...[]string) testCase {
		return testCase{"exec/" + name, func(r *request) { r.exec = commands }}
	}
	return []testCase{
		with("results", []string{"sh", "-c", "echo out; echo err >&2; exit 7"}, []string{"sh", "-c", "kill -9 $$"}, []string{"true"}),
		with("no-program", []string{"/no/such"}, []string{"/own/no-program"}, []string{"no-such"}),
		with("script", []string{"/own/script"}, []string{"/etc"}),
		with("nothing", nil),
		{"exec/time-out", func(r *request) { r.exec, r.execTimeout = [][]string{{"sleep", "30"}}, 1 }},
		{"exec/of-image-settings", func(r *request) {
			r.container.Image.Image = imageSettled
			r.exec = [][]string{{"sh", "-c", "id; pwd"}}
		}},
	}
}

// ends are exit codes, reasons, signals.
func ends() []testCase {
	with := func(name string, command ...string) testCase {
		return testCase{"exits/" + name, func(r *request) { r.runs(command...) }}
	}
	return []testCase{
		with("zero", "true"),
		with("three", "sh", "-c", "echo last words; exit 3"),
		with("255", "sh", "-c", "exit 255"),
		with("killed", "sh", "-c", "kill -9 $$"),
		with("terminated", "sh", "-c", "sh -c 'kill -15 $$'"),
		with("no-program", "/no/such"),
		with("not-executable", "/own/no-program"),
		with("directory", "/etc"),
		with("no-interpreter", "/own/script-none"),
		{"exits/out-of-memory", func(r *request) {
			r.container.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 24 << 20}
			r.runs("sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1")
		}},
		{"exits/stop-signal", func(r *request) { r.container.StopSignal = cri.Signal_SIGNAL_SIGUSR2 }},
		{"exits/stop-signal-of-image", func(r *request) { r.container.Image.Image = imageSettled }},
		{"exits/stop-ignored", func(r *request) {
			r.container.Command = []string{"sh", "-c", "trap '' TERM; /probe now; while :; do sleep 1; done"}
			r.stopTimeout = 1
		}},
		{"exits/stop-at-once", func(r *request) { r.stopTimeout = 0 }},
		{"exits/first-process-without-handler", func(r *request) {
			r.container.Command = []string{"sh", "-c", "/probe now; exec sleep 600"}
			r.stopTimeout = 1
		}},
	}
}
