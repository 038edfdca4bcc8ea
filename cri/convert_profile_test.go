package cri

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func localhost(ref string) *v1.SecurityProfile {
	return &v1.SecurityProfile{ProfileType: v1.SecurityProfile_Localhost, LocalhostRef: ref}
}

func TestSeccomp(t *testing.T) {
	const good = `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO"}]}`
	unconfined := &v1.SecurityProfile{ProfileType: v1.SecurityProfile_Unconfined}
	for name, tc := range map[string]struct {
		profile    *v1.SecurityProfile
		path       string
		privileged bool
		want       specs.LinuxSeccompAction // of the default, "" for no profile
	}{
		"nothing":              {},
		"unconfined":           {profile: unconfined},
		"default":              {profile: &v1.SecurityProfile{}, want: specs.ActErrno},
		"default, privileged":  {profile: &v1.SecurityProfile{}, privileged: true},
		"localhost":            {profile: localhost("/p.json"), want: specs.ActAllow},
		"localhost, prefixed":  {profile: localhost("localhost//p.json"), want: specs.ActAllow},
		"path, default":        {path: "runtime/default", want: specs.ActErrno},
		"path, docker":         {path: "docker/default", want: specs.ActErrno},
		"path, unconfined":     {path: "unconfined"},
		"path, localhost":      {path: "localhost//p.json", want: specs.ActAllow},
		"profile over path":    {profile: unconfined, path: "runtime/default"},
		"localhost privileged": {profile: localhost("/p.json"), privileged: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := testRequest()
			r.Host.ReadProfile = func(name string) ([]byte, error) {
				if name != "/p.json" {
					return nil, os.ErrNotExist
				}
				return []byte(good), nil
			}
			sc := security(&r)
			//nolint:staticcheck // deprecated, and still sent by old clients
			sc.Seccomp, sc.SeccompProfilePath, sc.Privileged = tc.profile, tc.path, tc.privileged
			podSecurity(&r).Privileged = true
			got := convert(t, r).Seccomp
			switch {
			case tc.want == "" && got != nil:
				t.Errorf("got a profile with default %s", got.DefaultAction)
			case tc.want != "" && (got == nil || got.DefaultAction != tc.want):
				t.Errorf("got %v, want default %s", got, tc.want)
			}
		})
	}
}

func TestSeccompRefuses(t *testing.T) {
	const field = "config.linux.security_context.seccomp"
	profile := func(more string) string { return "{\"defaultAction\": \"SCMP_ACT_ALLOW\",\n" + more + "}" }
	for name, tc := range map[string]struct {
		profile *v1.SecurityProfile
		text    string
		field   string
		says    string
	}{
		"reference of default": {profile: &v1.SecurityProfile{LocalhostRef: "/x"}, field: field + ".localhost_ref"},
		"no reference":         {profile: localhost(""), field: field + ".localhost_ref"},
		"relative":             {profile: localhost("p.json"), field: field + ".localhost_ref"},
		"type":                 {profile: &v1.SecurityProfile{ProfileType: 9}, field: field + ".profile_type"},
		"missing":              {profile: localhost("/none"), field: field + ".localhost_ref", says: "file does not exist"},
		"syntax":               {profile: localhost("/p"), text: "{\n\"defaultAction\": \"a\",\n oops}", field: field + ".localhost_ref", says: "/p:3: "},
		"kind":                 {profile: localhost("/p"), text: "{\n\"syscalls\": 1}", field: field + ".localhost_ref", says: "/p:2: "},
		"cut":                  {profile: localhost("/p"), text: "{\n\n", field: field + ".localhost_ref", says: "/p:3: "},
		"more":                 {profile: localhost("/p"), text: "{\"defaultAction\": \"a\"}\n}", field: field + ".localhost_ref", says: "/p:2: "},
		"an action":            {profile: localhost("/p"), text: "{\n\"defaultAction\":\n \"SCMP_ACT_NOSUCH\"}", field: field + ".localhost_ref", says: `/p:3: defaultAction: "SCMP_ACT_NOSUCH" is unknown`},
		"an architecture":      {profile: localhost("/p"), text: profile(`"architectures": ["SCMP_ARCH_X86",` + "\n" + `"SCMP_ARCH_Z80"]`), field: field + ".localhost_ref", says: `/p:3: architectures[1]: "SCMP_ARCH_Z80"`},
		"a flag":               {profile: localhost("/p"), text: profile(`"Flags": ["FAST"]`), field: field + ".localhost_ref", says: `/p:2: flags[0]: "FAST"`},
		"a call's action":      {profile: localhost("/p"), text: profile(`"syscalls": [{"action": "SCMP_ACT_LOG"},` + "\n" + `{"names": ["read"], "action": "no"}]`), field: field + ".localhost_ref", says: `/p:3: syscalls[1].action: "no"`},
		"no action of a call":  {profile: localhost("/p"), text: profile(`"syscalls": [{"names": ["read"]}]`), field: field + ".localhost_ref", says: `/p:2: syscalls[0].action: "" is unknown`},
		"an operator":          {profile: localhost("/p"), text: profile(`"syscalls": [{"action": "SCMP_ACT_LOG", "args": [{"index": 1, "value": 18446744073709551615, "op": "SCMP_CMP_EQ"},` + "\n" + `{"op": "=="}]}]`), field: field + ".localhost_ref", says: `/p:3: syscalls[0].args[1].op: "=="`},
		"an argument":          {profile: localhost("/p"), text: profile(`"syscalls": [{"action": "SCMP_ACT_LOG", "args": [` + "\n" + `{"index": 6, "op": "SCMP_CMP_EQ"}]}]`), field: field + ".localhost_ref", says: `/p:3: syscalls[0].args[0].index: 6 is more than 5`},
		"no action":            {profile: localhost("/p"), text: "{}", field: field + ".localhost_ref", says: "defaultAction"},
	} {
		t.Run(name, func(t *testing.T) {
			r := testRequest()
			r.Host.ReadProfile = func(name string) ([]byte, error) {
				if name != "/p" {
					return nil, os.ErrNotExist
				}
				return []byte(tc.text), nil
			}
			security(&r).Seccomp = tc.profile
			_, err := convertContainer(r)
			wantRefusal(t, err, errdefs.ErrInvalidArgument, tc.field)
			if !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%q does not say %q", err, tc.says)
			}
		})
	}
	t.Run("kernel without", func(t *testing.T) {
		r := testRequest()
		r.Host.Seccomp = false
		security(&r).Seccomp = &v1.SecurityProfile{}
		_, err := convertContainer(r)
		wantRefusal(t, err, errdefs.ErrInvalidArgument, field)
	})
	t.Run("path", func(t *testing.T) {
		r := testRequest()
		//nolint:staticcheck // deprecated, and still sent by old clients
		security(&r).SeccompProfilePath = "nonsense"
		_, err := convertContainer(r)
		wantRefusal(t, err, errdefs.ErrInvalidArgument, field+"_profile_path")
	})
}

func TestAppArmor(t *testing.T) {
	unconfined := &v1.SecurityProfile{ProfileType: v1.SecurityProfile_Unconfined}
	for name, tc := range map[string]struct {
		profile        *v1.SecurityProfile
		text           string
		off, priv, bad bool
		own            bool // the container is in a machine
		want           string
	}{
		"machine, nothing":     {own: true, off: true},
		"machine, default":     {own: true, off: true, profile: &v1.SecurityProfile{}},
		"machine, localhost":   {own: true, off: true, profile: localhost("mine"), bad: true},
		"nothing":              {want: "cricket-default"},
		"nothing, privileged":  {priv: true},
		"nothing, off":         {off: true},
		"default":              {profile: &v1.SecurityProfile{}, want: "cricket-default"},
		"default, privileged":  {profile: &v1.SecurityProfile{}, priv: true},
		"default, off":         {profile: &v1.SecurityProfile{}, off: true, bad: true},
		"unconfined":           {profile: unconfined},
		"unconfined, off":      {profile: unconfined, off: true},
		"localhost":            {profile: localhost("mine"), want: "mine"},
		"localhost, priv":      {profile: localhost("localhost/mine"), priv: true, want: "mine"},
		"localhost, missing":   {profile: localhost("theirs"), bad: true},
		"text":                 {text: "localhost/mine", want: "mine"},
		"text, default":        {text: "runtime/default", want: "cricket-default"},
		"text, off":            {text: "localhost/mine", off: true, bad: true},
		"text without prefix":  {text: "mine", bad: true},
		"profile before text":  {profile: unconfined, text: "localhost/mine"},
		"localhost, reference": {profile: localhost(""), bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := testRequest()
			r.Host.AppArmor, r.Host.AppArmorDefault, r.Host.OwnKernel = !tc.off, "cricket-default", tc.own
			r.Host.AppArmorLoaded = func(p string) (bool, error) { return p == "mine", nil }
			sc := security(&r)
			//nolint:staticcheck // deprecated, and still sent by old clients
			sc.Apparmor, sc.ApparmorProfile, sc.Privileged = tc.profile, tc.text, tc.priv
			podSecurity(&r).Privileged = true
			got, err := convertContainer(r)
			if tc.bad != errors.Is(err, errdefs.ErrInvalidArgument) || !tc.bad && err != nil {
				t.Fatalf("got %v", err)
			}
			if got.ApparmorProfile != tc.want {
				t.Errorf("got %q, want %q", got.ApparmorProfile, tc.want)
			}
		})
	}
}

func TestAppArmorWithoutDefault(t *testing.T) {
	r := testRequest()
	r.Host.AppArmor = true
	if got := convert(t, r).ApparmorProfile; got != "" {
		t.Errorf("got %q", got)
	}
	security(&r).Apparmor = &v1.SecurityProfile{}
	_, err := convertContainer(r)
	wantRefusal(t, err, errdefs.ErrFailedPrecondition, "config.linux.security_context.apparmor")
}

func TestSELinux(t *testing.T) {
	r := testRequest()
	r.ProcessLabel, r.MountLabel = "pod", "podmount"
	var options []string
	r.Host.SELinuxLabels = func(o []string) (string, string, error) {
		options = o
		return "own", "ownmount", nil
	}
	if got := convert(t, r); got.SELinuxLabel != "" || got.MountLabel != "" {
		t.Errorf("off: got %q, %q", got.SELinuxLabel, got.MountLabel)
	}
	r.Host.SELinux = true
	if got := convert(t, r); got.SELinuxLabel != "pod" || got.MountLabel != "podmount" {
		t.Errorf("inherited: got %q, %q", got.SELinuxLabel, got.MountLabel)
	}
	security(&r).SelinuxOptions = &v1.SELinuxOption{User: "u", Type: "t", Level: "s0:c1,c2"}
	if got := convert(t, r); got.SELinuxLabel != "own" || got.MountLabel != "ownmount" {
		t.Errorf("own: got %q, %q", got.SELinuxLabel, got.MountLabel)
	}
	if want := []string{"user:u", "type:t", "level:s0:c1,c2"}; !slices.Equal(options, want) {
		t.Errorf("got options %v", options)
	}
}

func TestStopSignal(t *testing.T) {
	for _, tc := range []struct {
		requested v1.Signal
		image     string
		want      unix.Signal // 0: refused
	}{
		{0, "", unix.SIGTERM},
		{0, "SIGQUIT", unix.SIGQUIT},
		{0, "hup", unix.SIGHUP},
		{0, "9", unix.SIGKILL},
		{0, "RTMIN+3", 37},
		{0, "SIGRTMAX-1", 63},
		{0, "RTMIN+31", 0},
		{0, "65", 0},
		{0, "SIGNAL", 0},
		{v1.Signal_SIGNAL_SIGUSR1, "SIGQUIT", unix.SIGUSR1},
		{v1.Signal_SIGNAL_SIGRTMINPLUS15, "", 49},
		{v1.Signal_SIGNAL_SIGRTMAXMINUS14, "", 50},
		{99, "", 0},
	} {
		got, err := stopSignal(tc.requested, tc.image)
		if got != tc.want || (tc.want == 0) != errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s, %q: got %v, %v, want %v", tc.requested, tc.image, got, err, tc.want)
		}
	}
}

// TestEverySignal: each name of the API means a signal, and each signal has its name
// back unless it has two.
func TestEverySignal(t *testing.T) {
	two := map[string]bool{"SIGNAL_SIGCLD": true, "SIGNAL_SIGPOLL": true, "SIGNAL_SIGIOT": true}
	for n, name := range v1.Signal_name {
		if n == 0 {
			continue
		}
		s, err := stopSignal(v1.Signal(n), "")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if back := statusSignal(s); back != v1.Signal(n) && !two[name] {
			t.Errorf("%s is %d, and that is %s", name, s, back)
		}
	}
	if got := statusSignal(32); got != 0 {
		t.Errorf("32 is %s", got)
	}
}
