package clusterlife

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cricket-cri/cricket/test/harness"
)

// nap is how long the containers of this test sleep, in seconds: a number that nobody else
// on the machine asks for tells their processes from others.
const nap = "34567"

// ours are the processes that a cluster may have left: the runtimes, the cluster's programs,
// CNI plugins, what runs in containers, and the holder of the node (/proc/self/exe serve).
// They are known by the program, so that an editor with a file of that name open is none.
var ours = regexp.MustCompile(`^process \d+ started \d+: (` + strings.Join([]string{
	`(\S*/)?(cricket|kube|containerd|qemu)[^\s/]*`,
	`(\S*/)?(crun|runc|etcd|coredns|pause|agnhost)`,
	`\S*/cni/\S+`,
	`/proc/self/exe`,
	`(\S*/)?sleep ` + nap,
}, "|") + `)( |$)`)

// state is what a process was doing at the moment. It is nobody's trace, and changes in
// processes that have nothing to do with a cluster.
var state = regexp.MustCompile(`^(process \d+ started \d+) state \S+:`)

// settled are a snapshot's lines, without processes that are not ours and without the state
// of those that are.
func settled(s harness.Snapshot) harness.Snapshot {
	all := harness.Snapshot{}
	for line, n := range s {
		line = state.ReplaceAllString(line, "$1:")
		if !strings.HasPrefix(line, "process ") || ours.MatchString(line) {
			all[line] += n
		}
	}
	return all
}

// observe lists what the machine holds, whose network, mounts and directories a cluster must
// not touch.
func observe(t *testing.T) harness.Snapshot {
	t.Helper()
	s, err := harness.Observe("/etc/cni", "/var/lib/cni", "/var/lib/kubelet")
	if err != nil {
		t.Fatal(err)
	}
	s = settled(s)
	for _, name := range []string{"vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys"} {
		data, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if err != nil {
			t.Fatal(err)
		}
		s["setting "+name+" "+string(data)]++
	}
	// Others make files in the directories for temporary ones all the time.
	for _, pattern := range []string{"/run/*", "/var/lib/*", "/var/tmp/cricket*", "/tmp/cricket*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			s["entry "+path]++
		}
	}
	return s
}

// same compares what the machine holds with what it held.
func same(t *testing.T, before harness.Snapshot) {
	t.Helper()
	after := observe(t)
	if left := before.Leaks(after); len(left) > 0 {
		t.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
	}
	if gone := after.Leaks(before); len(gone) > 0 {
		t.Errorf("taken away:\n  %s", strings.Join(gone, "\n  "))
	}
}

// TestSettled needs no cluster.
func TestSettled(t *testing.T) {
	for command, kept := range map[string]bool{
		"/work/bin/cricketd --socket /run/x":                          true,
		"cricket-monitor":                                             true,
		"/work/.cache/tools/1f/kube-apiserver --etcd-servers http://": true,
		"qemu-system-x86_64 -accel tcg":                               true,
		"/usr/bin/crun --root /run/x create":                          true,
		"runc init":                                                   true,
		"/cache/containerd-shim-runc-v2 -namespace k8s.io":            true,
		"/opt/cni/bin/bridge":                                         true,
		"/usr/lib/cni/host-local":                                     true,
		"/pause":                                                      true,
		"/proc/self/exe --cache /work/.cache serve":                   true,
		"sleep " + nap:                                                true,
		"sleep 5":                                                     false,
		"vim cricket.go":                                              false,
		"/home/cricket/bin/tool":                                      false,
		"go test ./test/clusterlife":                                  false,
		"/usr/bin/pausectl":                                           false,
		"":                                                            false,
	} {
		got := settled(harness.Snapshot{"process 12 started 345 state S: " + command: 1})
		want := harness.Snapshot{}
		if kept {
			want["process 12 started 345: "+command] = 1
		}
		if len(want.Leaks(got))+len(got.Leaks(want)) > 0 {
			t.Errorf("%q became %v, want %v", command, got, want)
		}
	}
	if got := settled(harness.Snapshot{"mount / state S: x": 2}); got["mount / state S: x"] != 2 {
		t.Errorf("a line of something else became %v", got)
	}
}
