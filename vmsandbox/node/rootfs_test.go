package node

import (
	"context"
	"testing"

	"github.com/cricket-cri/cricket/vmsandbox"
	"github.com/cricket-cri/cricket/vmsandbox/template"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

func TestRootfs(t *testing.T) {
	for _, c := range []struct {
		asked    vmsandbox.Rootfs
		unshared bool
		want     vmsandbox.Rootfs
		cmdline  string
	}{
		{RootfsAuto, false, vmsandbox.RootfsDisk, "quiet"},
		{vmsandbox.RootfsDisk, false, vmsandbox.RootfsDisk, "quiet"},
		{vmsandbox.RootfsDAX, false, vmsandbox.RootfsDAX, "quiet cricket.mapped"},
		{RootfsAuto, true, vmsandbox.RootfsDirect, "quiet"},
		{vmsandbox.RootfsDAX, true, vmsandbox.RootfsDirect, "quiet"},
	} {
		n := &Node{rootfs: c.asked, options: template.Options{Unshared: c.unshared, Shape: vmm.Shape{Cmdline: "quiet"}}}
		n.chooseRootfs()
		if n.rootfs != c.want || n.options.Shape.Cmdline != c.cmdline {
			t.Errorf("%s, unshared %t: %s, command line %q", c.asked, c.unshared, n.rootfs, n.options.Shape.Cmdline)
		}
	}
}

// TestDirect: of a machine that goes on, images are read past the page cache too.
func TestDirect(t *testing.T) {
	disks, err := direct(func(context.Context, string) (map[string]vmm.Disk, error) {
		return map[string]vmm.Disk{"ro0": {Files: []string{"image"}, ReadOnly: true}, "rw0": {Files: []string{"disk"}}}, nil
	})(t.Context(), "m")
	if err != nil || !disks["ro0"].Direct || disks["rw0"].Direct {
		t.Errorf("disks %+v, %v", disks, err)
	}
}
