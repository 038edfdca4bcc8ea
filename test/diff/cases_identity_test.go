package diff

import (
	"os"
	"path/filepath"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func id(n int64) *cri.Int64Value { return &cri.Int64Value{Value: n} }

// credentials are users and groups, asked for and of images.
func credentials() []testCase {
	return []testCase{
		{"credentials/user", func(r *request) { r.security().RunAsUser = id(1000) }},
		{"credentials/user-and-group", func(r *request) { r.security().RunAsUser, r.security().RunAsGroup = id(1000), id(2000) }},
		{"credentials/user-unknown", func(r *request) { r.security().RunAsUser = id(12345) }},
		{"credentials/name", func(r *request) { r.security().RunAsUsername = "www-data" }},
		{"credentials/name-unknown", func(r *request) { r.security().RunAsUsername = "nobody-knows" }},
		{"credentials/group-alone", func(r *request) { r.security().RunAsGroup = id(2000) }},
		{"credentials/supplemental", func(r *request) {
			r.security().RunAsUser, r.security().SupplementalGroups = id(1000), []int64{60001, 60000, 60001}
		}},
		{"credentials/supplemental-strict", func(r *request) {
			r.security().RunAsUser, r.security().SupplementalGroups = id(1000), []int64{60000}
			r.security().SupplementalGroupsPolicy = cri.SupplementalGroupsPolicy_Strict
		}},
		{"credentials/image-numbers", func(r *request) { r.container.Image.Image = imageSettled }},
		{"credentials/image-name", func(r *request) { r.container.Image.Image = imageNamed }},
		{"credentials/image-groups", func(r *request) { r.container.Image.Image = imageGroups }},
		{"credentials/image-name-unknown", func(r *request) { r.container.Image.Image = imageUnknown }},
		{"credentials/image-overridden", func(r *request) { r.container.Image.Image, r.security().RunAsUser = imageSettled, id(0) }},
		{"credentials/no-new-privileges", func(r *request) { r.security().NoNewPrivs = true }},
	}
}

// capabilities are changes of the default set.
func capabilities() []testCase {
	with := func(name string, c *cri.Capability, user int64) testCase {
		return testCase{"capabilities/" + name, func(r *request) {
			r.security().Capabilities = c
			if user > 0 {
				r.security().RunAsUser = id(user)
			}
		}}
	}
	return []testCase{
		with("add", &cri.Capability{AddCapabilities: []string{"NET_ADMIN", "SYS_TIME"}}, 0),
		with("add-prefixed", &cri.Capability{AddCapabilities: []string{"CAP_NET_ADMIN"}}, 0),
		with("add-lower-case", &cri.Capability{AddCapabilities: []string{"net_admin"}}, 0),
		with("add-unknown", &cri.Capability{AddCapabilities: []string{"NO_SUCH"}}, 0),
		with("add-all", &cri.Capability{AddCapabilities: []string{"ALL"}}, 0),
		with("add-all-drop-one", &cri.Capability{AddCapabilities: []string{"ALL"}, DropCapabilities: []string{"NET_RAW"}}, 0),
		with("drop", &cri.Capability{DropCapabilities: []string{"NET_RAW", "MKNOD"}}, 0),
		with("drop-all", &cri.Capability{DropCapabilities: []string{"ALL"}}, 0),
		with("drop-all-add-one", &cri.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_BIND_SERVICE"}}, 0),
		with("add-as-user", &cri.Capability{AddCapabilities: []string{"NET_ADMIN"}}, 1000),
		with("ambient", &cri.Capability{AddCapabilities: []string{"NET_ADMIN"}, AddAmbientCapabilities: []string{"NET_ADMIN"}}, 1000),
		{"capabilities/privileged", func(r *request) { r.security().Privileged, r.podSecurity().Privileged = true, true }},
		{"capabilities/privileged-as-user", func(r *request) {
			r.security().Privileged, r.podSecurity().Privileged, r.security().RunAsUser = true, true, id(1000)
		}},
		{"capabilities/privileged-pod", func(r *request) { r.podSecurity().Privileged = true }},
		{"capabilities/privileged-container", func(r *request) { r.security().Privileged = true }},
	}
}

const profile = `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
	{"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
	{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"}]}`

// seccomp are profiles.
func seccomp() []testCase {
	return []testCase{
		{"seccomp/default", func(r *request) {
			r.security().Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
		}},
		{"seccomp/default-with-capabilities", func(r *request) {
			r.security().Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
			r.security().Capabilities = &cri.Capability{AddCapabilities: []string{"SYS_ADMIN", "SYS_PTRACE", "BPF", "PERFMON", "SYS_TIME"}}
		}},
		{"seccomp/default-as-user", func(r *request) {
			r.security().Seccomp, r.security().RunAsUser = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}, id(1000)
		}},
		{"seccomp/unconfined", func(r *request) {
			r.security().Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
		}},
		{"seccomp/localhost", func(r *request) {
			path := filepath.Join(r.dir, "profile.json")
			r.prepare = func(string) error { return os.WriteFile(path, []byte(profile), 0o644) }
			r.security().Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: path}
		}},
		{"seccomp/localhost-missing", func(r *request) {
			r.security().Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: filepath.Join(r.dir, "none")}
		}},
		{"seccomp/privileged", func(r *request) {
			r.security().Privileged, r.podSecurity().Privileged = true, true
			r.security().Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
		}},
	}
}
