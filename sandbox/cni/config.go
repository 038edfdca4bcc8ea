package cni

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
)

// load reads the lexically first valid configuration of the directory. If there is
// none, the error (errdefs.ErrUnavailable) says why.
func (n *Network) load() (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(n.confDir, []string{".conflist", ".conf", ".json"})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read network configuration: %w: %w", errdefs.ErrUnavailable, err)
	}
	slices.Sort(files)
	var wrong []error
	for _, file := range files {
		list, err := parseFile(file)
		if err == nil {
			return list, nil
		}
		wrong = append(wrong, fmt.Errorf("%s: %w", filepath.Base(file), err))
	}
	if len(wrong) == 0 {
		return nil, fmt.Errorf("no network configuration in %s: %w", n.confDir, errdefs.ErrUnavailable)
	}
	return nil, fmt.Errorf("no valid network configuration in %s: %w: %w", n.confDir, errdefs.ErrUnavailable, errors.Join(wrong...))
}

func parseFile(file string) (*libcni.NetworkConfigList, error) {
	if filepath.Ext(file) == ".conflist" {
		list, err := libcni.NetworkConfFromFile(file)
		if err != nil {
			return nil, err
		}
		return list, checkList(list)
	}
	conf, err := libcni.ConfFromFile(file) //nolint:staticcheck // deprecated like the format, which nodes have all the same
	if err != nil {
		return nil, err
	}
	if conf.Network.Type == "" {
		return nil, errors.New("no plugin type (a list of plugins belongs into a .conflist file)")
	}
	list, err := libcni.ConfListFromConf(conf) //nolint:staticcheck // see above
	if err != nil {
		return nil, err
	}
	return list, checkList(list)
}

func checkList(list *libcni.NetworkConfigList) error {
	if len(list.Plugins) == 0 {
		return errors.New("no plugins in the list")
	}
	return nil
}

// findPlugins says which plugin of the list is not installed.
func (n *Network) findPlugins(list *libcni.NetworkConfigList) error {
	for _, p := range list.Plugins {
		if _, err := invoke.FindInPath(p.Network.Type, n.binDirs); err != nil {
			return fmt.Errorf("plugin %q of network %q is not installed: %w: %w", p.Network.Type, list.Name, errdefs.ErrUnavailable, err)
		}
	}
	return nil
}
