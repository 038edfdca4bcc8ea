package cri

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime"
)

// maxID is the largest user or group id that OCI runtimes take.
const maxID = math.MaxInt32

// wanted is the user that a container runs as, as somebody wrote it. Names and numbers
// are not told apart yet.
type wanted struct {
	user, group string
	// userField and groupField are where it was written.
	userField, groupField string
}

// accounts are the image's /etc/passwd and /etc/group.
type accounts struct {
	users  []user.User
	groups []user.Group
}

// setUser finds the numbers of the container's user and groups. A numeric user need not
// exist in the image, a named one must.
func setUser(out *runtime.Config, r containerRequest) error {
	sc := r.Config.GetLinux().GetSecurityContext()
	w, err := wantedUser(sc, r.Image.User)
	if err != nil {
		return err
	}
	a, err := readAccounts(r.ReadFiles)
	if err != nil {
		return err
	}
	uid, primary, name, err := a.user(w)
	if err != nil {
		return err
	}
	setHome(out, a, uid)
	gid := primary
	if w.group != "" {
		if gid, err = a.group(w); err != nil {
			return err
		}
	}
	groups := []uint32{gid}
	switch sc.GetSupplementalGroupsPolicy() {
	case v1.SupplementalGroupsPolicy_Merge:
		groups = append(groups, a.memberships(name)...)
	case v1.SupplementalGroupsPolicy_Strict:
	default:
		return badField(securityField+".supplemental_groups_policy", "%d is unknown", sc.GetSupplementalGroupsPolicy())
	}
	for i, g := range sc.GetSupplementalGroups() {
		if g < 0 || g > maxID {
			return badField(at(securityField+".supplemental_groups", i), "%d is no group id", g)
		}
		groups = append(groups, uint32(g))
	}
	slices.Sort(groups)
	out.User = specs.User{UID: uid, GID: gid, AdditionalGids: slices.Compact(groups)}
	return nil
}

// setHome adds HOME where nobody has set it: the directory of the first user with that
// number, or the root for numbers that the image does not know. runc does so, crun for
// known numbers alone.
func setHome(out *runtime.Config, a accounts, uid uint32) {
	if slices.ContainsFunc(out.Env, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) {
		return
	}
	home := "/"
	for _, u := range a.users {
		if u.Uid == int(uid) {
			if u.Home != "" {
				home = u.Home
			}
			break
		}
	}
	out.Env = append(out.Env, "HOME="+home)
}

// wantedUser takes the request's user or else the image's ("user:group"), never half of
// each.
func wantedUser(sc *v1.LinuxContainerSecurityContext, image string) (wanted, error) {
	w := wanted{groupField: securityField + ".run_as_group"}
	switch {
	case sc.GetRunAsUser() != nil && sc.GetRunAsUsername() != "":
		return w, badField(securityField+".run_as_username", "excludes run_as_user")
	case sc.GetRunAsUser() != nil:
		w.user, w.userField = strconv.FormatInt(sc.GetRunAsUser().GetValue(), 10), securityField+".run_as_user"
	case sc.GetRunAsUsername() != "":
		w.user, w.userField = sc.GetRunAsUsername(), securityField+".run_as_username"
	case sc.GetRunAsGroup() != nil:
		return w, badField(w.groupField, "needs run_as_user or run_as_username")
	default:
		w.userField, w.groupField = "user of config.image", "group of config.image"
		w.user, w.group, _ = strings.Cut(image, ":")
		if w.user == "" {
			w.user = "0"
		}
		return w, nil
	}
	if sc.GetRunAsGroup() != nil {
		w.group = strconv.FormatInt(sc.GetRunAsGroup().GetValue(), 10)
	}
	return w, nil
}

func readAccounts(read func(names ...string) (map[string][]byte, error)) (a accounts, err error) {
	files, err := read("/etc/passwd", "/etc/group")
	if err != nil {
		return a, err
	}
	if a.users, err = user.ParsePasswd(bytes.NewReader(files["/etc/passwd"])); err != nil {
		return a, badField("config.image", "read /etc/passwd of the image: %w", err)
	}
	if a.groups, err = user.ParseGroup(bytes.NewReader(files["/etc/group"])); err != nil {
		return a, badField("config.image", "read /etc/group of the image: %w", err)
	}
	return a, nil
}

// user finds a user by number or name: its id, its primary group (root's for numbers
// that the image does not know) and its name, if it has one.
func (a accounts) user(w wanted) (uid, gid uint32, name string, err error) {
	id, numeric, err := number(w.userField, w.user)
	if err != nil {
		return 0, 0, "", err
	}
	for _, u := range a.users {
		if numeric && u.Uid == int(id) || !numeric && u.Name == w.user {
			if u.Uid < 0 || u.Uid > maxID || u.Gid < 0 || u.Gid > maxID {
				return 0, 0, "", badField(w.userField, "/etc/passwd of the image gives %q the ids %d:%d", w.user, u.Uid, u.Gid)
			}
			return uint32(u.Uid), uint32(u.Gid), u.Name, nil
		}
	}
	if !numeric {
		return 0, 0, "", badField(w.userField, "no user %q in the image", w.user)
	}
	return id, 0, "", nil
}

func (a accounts) group(w wanted) (uint32, error) {
	id, numeric, err := number(w.groupField, w.group)
	if err != nil || numeric {
		return id, err
	}
	for _, g := range a.groups {
		if g.Name == w.group && g.Gid >= 0 && g.Gid <= maxID {
			return uint32(g.Gid), nil
		}
	}
	return 0, badField(w.groupField, "no group %q in the image", w.group)
}

// memberships are the groups that /etc/group lists the user in.
func (a accounts) memberships(name string) []uint32 {
	var out []uint32
	for _, g := range a.groups {
		if name != "" && slices.Contains(g.List, name) && g.Gid >= 0 && g.Gid <= maxID {
			out = append(out, uint32(g.Gid))
		}
	}
	return out
}

// number tells numbers from names.
func number(field, text string) (id uint32, numeric bool, err error) {
	if strings.Trim(text, "0123456789-") != "" {
		return 0, false, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > maxID {
		return 0, false, badField(field, "%s is not in [0, %d]", text, maxID)
	}
	return uint32(n), true, nil
}

// statusUser is u in the terms of ContainerStatus.
func statusUser(u specs.User) *v1.ContainerUser {
	out := &v1.LinuxContainerUser{Uid: int64(u.UID), Gid: int64(u.GID)}
	for _, g := range u.AdditionalGids {
		out.SupplementalGroups = append(out.SupplementalGroups, int64(g))
	}
	return &v1.ContainerUser{Linux: out}
}
