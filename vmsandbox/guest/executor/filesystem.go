package executor

import (
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountOptions are the options of one mount, sorted by who is interested.
type mountOptions struct {
	bind, recursive bool
	// set and clear are attributes of the mount, deep those of everything below it too.
	set, clear, deep uint64
	// atime: one of the attributes for access times was named.
	atime bool
	// propagation is a flag of mount(2), deepPropagation one that goes for all below.
	propagation, deepPropagation uint64
	data                         []string // for the file system
}

// attribute is what an option says about a mount.
type attribute struct {
	bit uint64
	off bool
}

// attributes are options that set or clear attributes of a mount.
func attributes() map[string]attribute {
	return map[string]attribute{
		"ro": {unix.MOUNT_ATTR_RDONLY, false}, "rw": {unix.MOUNT_ATTR_RDONLY, true},
		"nosuid": {unix.MOUNT_ATTR_NOSUID, false}, "suid": {unix.MOUNT_ATTR_NOSUID, true},
		"nodev": {unix.MOUNT_ATTR_NODEV, false}, "dev": {unix.MOUNT_ATTR_NODEV, true},
		"noexec": {unix.MOUNT_ATTR_NOEXEC, false}, "exec": {unix.MOUNT_ATTR_NOEXEC, true},
		"nodiratime": {unix.MOUNT_ATTR_NODIRATIME, false}, "diratime": {unix.MOUNT_ATTR_NODIRATIME, true},
		"nosymfollow": {unix.MOUNT_ATTR_NOSYMFOLLOW, false}, "symfollow": {unix.MOUNT_ATTR_NOSYMFOLLOW, true},
	}
}

// accessTime is the attribute that an option about access times stands for.
func accessTime(option string) (attr uint64, ok bool) {
	switch option {
	case "noatime":
		return unix.MOUNT_ATTR_NOATIME, true
	case "strictatime", "norelatime":
		return unix.MOUNT_ATTR_STRICTATIME, true
	case "relatime", "atime", "nostrictatime":
		return unix.MOUNT_ATTR_RELATIME, true
	}
	return 0, false
}

// propagations are flags of mount(2).
func propagations() map[string]uint64 {
	return map[string]uint64{"private": unix.MS_PRIVATE, "slave": unix.MS_SLAVE, "shared": unix.MS_SHARED, "unbindable": unix.MS_UNBINDABLE}
}

func parseOptions(m specs.Mount) mountOptions {
	o := mountOptions{bind: m.Type == "bind"}
	attributes, propagations := attributes(), propagations()
	for _, option := range m.Options {
		deep, _ := strings.CutPrefix(option, "r")
		recursive := deep != option
		if a, ok := attributes[option]; ok {
			o.apply(a)
		} else if a, ok := attributes[deep]; ok && recursive && !a.off {
			o.deep |= a.bit
		} else if t, ok := accessTime(option); ok {
			o.set, o.atime = o.set&^unix.MOUNT_ATTR__ATIME|t, true
		} else if p, ok := propagations[option]; ok {
			o.propagation = p
		} else if p, ok := propagations[deep]; ok && recursive {
			o.deepPropagation = p
		} else if option == "bind" || option == "rbind" {
			o.bind, o.recursive = true, option == "rbind"
		} else if !slices.Contains([]string{"defaults", "async", "nomand", "mand"}, option) {
			o.data = append(o.data, option)
		}
	}
	return o
}

func (o *mountOptions) apply(a attribute) {
	on, off := &o.set, &o.clear
	if a.off {
		on, off = off, on
	}
	*on |= a.bit
	*off &^= a.bit
	// What is read-only where it comes from stays so, as it does for mount(8).
	o.clear &^= unix.MOUNT_ATTR_RDONLY
}

// makeFileSystems makes those of the container's mounts that are new file systems: the
// kernel's show what the namespaces of their maker show. They are at the descriptors
// fdMounts plus their number among the mounts; rootfs takes them from there.
func makeFileSystems(p *plan, mounts []specs.Mount) {
	for i, m := range mounts {
		o := parseOptions(m)
		if o.bind {
			continue
		}
		kind, label := m.Type, "mount "+m.Type+" on "+m.Destination
		if kind == "cgroup" {
			kind = "cgroup2"
		}
		p.keep(p.add(label, unix.SYS_FSOPEN, kind, unix.FSOPEN_CLOEXEC), fdContext)
		if m.Source != "" {
			p.add(label, unix.SYS_FSCONFIG, fdContext, unix.FSCONFIG_SET_STRING, "source", m.Source, 0)
		}
		for _, option := range o.data {
			key, value, found := strings.Cut(option, "=")
			if found {
				p.add(label+": option "+option, unix.SYS_FSCONFIG, fdContext, unix.FSCONFIG_SET_STRING, key, value, 0)
			} else {
				p.add(label+": option "+option, unix.SYS_FSCONFIG, fdContext, unix.FSCONFIG_SET_FLAG, key, 0, 0)
			}
		}
		p.add(label, unix.SYS_FSCONFIG, fdContext, unix.FSCONFIG_CMD_CREATE, 0, 0, 0)
		p.keep(p.add(label, unix.SYS_FSMOUNT, fdContext, unix.FSMOUNT_CLOEXEC, o.set|o.deep), fdMounts+i)
	}
	if len(mounts) > 0 {
		p.tolerate(p.add("", unix.SYS_CLOSE, fdContext))
	}
}

// isDevBound reports whether the container gets somebody else's /dev.
func isDevBound(mounts []specs.Mount) bool {
	return slices.ContainsFunc(mounts, func(m specs.Mount) bool {
		return path.Clean(m.Destination) == "/dev" && parseOptions(m).bind
	})
}
