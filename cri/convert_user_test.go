package cri

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime/spec"
)

func TestSetUser(t *testing.T) {
	uid := func(n int64) *v1.Int64Value { return &v1.Int64Value{Value: n} }
	for name, tc := range map[string]struct {
		user, group  *v1.Int64Value
		username     string
		image        string
		supplemental []int64
		strict       bool
		want         specs.User
	}{
		"root":                 {want: specs.User{AdditionalGids: []uint32{0}}},
		"known number":         {user: uid(33), want: specs.User{UID: 33, GID: 34, AdditionalGids: []uint32{34, 50}}},
		"unknown number":       {user: uid(5), want: specs.User{UID: 5, AdditionalGids: []uint32{0}}},
		"number, group":        {user: uid(1000), group: uid(7), want: specs.User{UID: 1000, GID: 7, AdditionalGids: []uint32{7, 50, 60}}},
		"name":                 {username: "alice", want: specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{50, 60, 1001}}},
		"name, group":          {username: "web", group: uid(9), want: specs.User{UID: 33, GID: 9, AdditionalGids: []uint32{9, 50}}},
		"image's number":       {image: "33", want: specs.User{UID: 33, GID: 34, AdditionalGids: []uint32{34, 50}}},
		"image's name":         {image: "web", want: specs.User{UID: 33, GID: 34, AdditionalGids: []uint32{34, 50}}},
		"image's numbers":      {image: "1003:1004", want: specs.User{UID: 1003, GID: 1004, AdditionalGids: []uint32{1004}}},
		"image's name, number": {image: "web:1004", want: specs.User{UID: 33, GID: 1004, AdditionalGids: []uint32{50, 1004}}},
		"image's name, name":   {image: "web:more", want: specs.User{UID: 33, GID: 60, AdditionalGids: []uint32{50, 60}}},
		"request over image's": {user: uid(5), image: "web:more", want: specs.User{UID: 5, AdditionalGids: []uint32{0}}},
		"merge":                {username: "alice", supplemental: []int64{50, 9}, want: specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{9, 50, 60, 1001}}},
		"strict":               {username: "alice", supplemental: []int64{9}, strict: true, want: specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{9, 1001}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := testRequest()
			sc := security(&r)
			sc.RunAsUser, sc.RunAsGroup, sc.RunAsUsername = tc.user, tc.group, tc.username
			sc.SupplementalGroups = tc.supplemental
			if tc.strict {
				sc.SupplementalGroupsPolicy = v1.SupplementalGroupsPolicy_Strict
			}
			r.Image.User = tc.image
			if got := convert(t, r).User; !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
	t.Run("no files", func(t *testing.T) {
		r := testRequest()
		r.ReadFiles = func(...string) (map[string][]byte, error) { return nil, nil }
		security(&r).RunAsUser = uid(5)
		if got := convert(t, r).User; got.UID != 5 {
			t.Errorf("got %+v", got)
		}
	})
}

func TestStatusUser(t *testing.T) {
	got := statusUser(specs.User{UID: 1, GID: 2, AdditionalGids: []uint32{2, 3}}).GetLinux()
	if got.GetUid() != 1 || got.GetGid() != 2 || !slices.Equal(got.GetSupplementalGroups(), []int64{2, 3}) {
		t.Errorf("got %v", got)
	}
}

func TestSetCapabilities(t *testing.T) {
	base := spec.DefaultCapabilities()
	without := func(name string) []string {
		return slices.DeleteFunc(slices.Clone(base), func(c string) bool { return c == name })
	}
	for name, tc := range map[string]struct {
		c             *v1.Capability
		want, ambient []string
	}{
		"default":        {nil, base, nil},
		"add":            {&v1.Capability{AddCapabilities: []string{"net_admin", "CAP_CHOWN"}}, append(slices.Clone(base), "CAP_NET_ADMIN"), nil},
		"drop":           {&v1.Capability{DropCapabilities: []string{"CHOWN"}}, without("CAP_CHOWN"), nil},
		"add all":        {&v1.Capability{AddCapabilities: []string{"all"}, DropCapabilities: []string{"CHOWN"}}, []string{"CAP_NET_ADMIN", "CAP_SYS_ADMIN"}, nil},
		"drop all":       {&v1.Capability{AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"ALL"}}, []string{"CAP_NET_ADMIN"}, nil},
		"ambient":        {&v1.Capability{DropCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"NET_ADMIN"}}, []string{"CAP_NET_ADMIN"}, []string{"CAP_NET_ADMIN"}},
		"drop wins":      {&v1.Capability{DropCapabilities: []string{"ALL", "NET_ADMIN"}, AddAmbientCapabilities: []string{"NET_ADMIN"}}, nil, nil},
		"both add lists": {&v1.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"KILL"}, AddAmbientCapabilities: []string{"KILL"}}, []string{"CAP_KILL"}, []string{"CAP_KILL"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := testRequest()
			security(&r).Capabilities = tc.c
			got := convert(t, r).Capabilities
			for _, set := range [][]string{got.Bounding, got.Effective, got.Permitted} {
				if !slices.Equal(set, tc.want) {
					t.Errorf("got %v, want %v", set, tc.want)
				}
			}
			if !slices.Equal(got.Ambient, tc.ambient) || !slices.Equal(got.Inheritable, tc.ambient) {
				t.Errorf("got ambient %v, inheritable %v, want %v", got.Ambient, got.Inheritable, tc.ambient)
			}
		})
	}
}

func TestHome(t *testing.T) {
	for name, tc := range map[string]struct {
		user int64
		set  string
		want string
	}{
		"known number":   {user: 0, want: "HOME=/root"},
		"unknown number": {user: 4711, want: "HOME=/"},
		"set already":    {user: 0, set: "/srv", want: "HOME=/srv"},
	} {
		t.Run(name, func(t *testing.T) {
			r := testRequest()
			security(&r).RunAsUser = &v1.Int64Value{Value: tc.user}
			if tc.set != "" {
				r.Image.Env = []string{"HOME=" + tc.set}
			}
			var homes []string
			for _, e := range convert(t, r).Env {
				if strings.HasPrefix(e, "HOME=") {
					homes = append(homes, e)
				}
			}
			if !slices.Equal(homes, []string{tc.want}) {
				t.Errorf("got %v, want %s", homes, tc.want)
			}
		})
	}
}
