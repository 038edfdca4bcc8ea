package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
)

const allAccess = "rwm"

// devices lists the nodes to make and what the device cgroup allows. The nodes that
// every container has (null, zero, full, random, urandom, tty, ptmx) are the OCI
// runtime's business. Who has CAP_NET_ADMIN in the pod and makes /dev/net/tun may open it:
// runc allows that by itself, and programs for virtual private networks rely on it.
func devices(c runtime.Config, p Place) ([]specs.LinuxDevice, []specs.LinuxDeviceCgroup, error) {
	tun := specs.LinuxDevice{Type: "c", Major: 10, Minor: 200}
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: allAccess}, rule(tun, allAccess)}
	var out []specs.LinuxDevice
	for _, d := range c.Devices {
		found, err := nodes(d, p)
		if err != nil {
			return nil, nil, err
		}
		for _, node := range found {
			out = addNode(out, node)
			if node.Type != "p" {
				rules = append(rules, rule(node, d.Permissions))
			}
		}
	}
	if !c.Privileged {
		return out, rules, nil
	}
	for _, node := range p.HostDevices {
		if !slices.ContainsFunc(out, func(d specs.LinuxDevice) bool { return d.Path == node.Path }) {
			out = append(out, node)
		}
	}
	return out, []specs.LinuxDeviceCgroup{{Allow: true, Access: allAccess}}, nil
}

// nodes are the devices that d stands for, at their paths in the container.
func nodes(d runtime.Device, p Place) ([]specs.LinuxDevice, error) {
	found := p.Devices[d.HostPath]
	if len(found) == 0 {
		return nil, fmt.Errorf("build OCI specification: %s is not a device and has none below it: %w", d.HostPath, errdefs.ErrInvalidArgument)
	}
	if strings.Trim(d.Permissions, allAccess) != "" {
		return nil, fmt.Errorf("build OCI specification: permissions %q of device %s: %w", d.Permissions, d.HostPath, errdefs.ErrInvalidArgument)
	}
	out := slices.Clone(found)
	if d.ContainerPath == "" {
		return out, nil
	}
	from := path.Clean(d.HostPath)
	for i := range out {
		// A symbolic link to a device: the node has the path of what it points to.
		below, ok := strings.CutPrefix(out[i].Path, from+"/")
		if !ok {
			below = ""
		}
		out[i].Path = path.Join(d.ContainerPath, below)
	}
	return out, nil
}

// addNode adds node to list; of two nodes at one path the later one stays.
func addNode(list []specs.LinuxDevice, node specs.LinuxDevice) []specs.LinuxDevice {
	at := slices.IndexFunc(list, func(d specs.LinuxDevice) bool { return d.Path == node.Path })
	if at < 0 {
		return append(list, node)
	}
	list[at] = node
	return list
}

func rule(node specs.LinuxDevice, permissions string) specs.LinuxDeviceCgroup {
	return specs.LinuxDeviceCgroup{
		Allow: true, Type: node.Type, Major: &node.Major, Minor: &node.Minor, Access: permissions,
	}
}
