package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"github.com/cricket-cri/cricket/sandbox/netns"
)

// attachment is what a DEL needs, long after the configuration has changed.
type attachment struct {
	ID      string `json:"id"`
	NetNS   string `json:"netns"`
	Network string `json:"network"`
	Version string `json:"cniVersion"`
	// Plugins are the configurations of the plugins, in order.
	Plugins      []json.RawMessage `json:"plugins"`
	Args         [][2]string       `json:"args,omitempty"`
	Capabilities map[string]any    `json:"capabilities,omitempty"`
}

func newAttachment(p Pod, list *libcni.NetworkConfigList) (attachment, error) {
	capabilities, err := p.capabilities()
	if err != nil {
		return attachment{}, err
	}
	a := attachment{
		ID: p.ID, NetNS: p.NetNS, Network: list.Name, Version: list.CNIVersion,
		Args: p.args(), Capabilities: capabilities,
	}
	for _, plugin := range list.Plugins {
		a.Plugins = append(a.Plugins, plugin.Bytes)
	}
	return a, nil
}

// runtimeConf leaves the network namespace out if it is gone, as after a reboot.
func (a attachment) runtimeConf() *libcni.RuntimeConf {
	ns := a.NetNS
	if !netns.IsNamespace(ns) {
		ns = ""
	}
	return &libcni.RuntimeConf{
		ContainerID: a.ID, NetNS: ns, IfName: Interface,
		Args: a.Args, CapabilityArgs: a.Capabilities,
	}
}

// list is the configuration that the attachment was made with.
func (a attachment) list() (*libcni.NetworkConfigList, error) {
	list := &libcni.NetworkConfigList{Name: a.Network, CNIVersion: a.Version}
	for _, content := range a.Plugins {
		plugin, err := libcni.NetworkPluginConfFromBytes(content)
		if err != nil {
			return nil, fmt.Errorf("read recorded network configuration: %w", err)
		}
		list.Plugins = append(list.Plugins, plugin)
	}
	return list, nil
}

// ledger is a directory with one file for each attachment. Nothing is synced: after a
// power failure a name is enough to delete by.
type ledger string

const recordSuffix = ".json"

func (l ledger) path(id string) string { return filepath.Join(string(l), id+recordSuffix) }

func (l ledger) put(a attachment) error {
	content, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode attachment: %w", err)
	}
	half := filepath.Join(string(l), a.ID+".new")
	if err := os.WriteFile(half, content, 0o600); err != nil {
		return fmt.Errorf("record attachment: %w", err)
	}
	if err := os.Rename(half, l.path(a.ID)); err != nil {
		return fmt.Errorf("record attachment: %w", err)
	}
	return nil
}

func (l ledger) get(id string) (a attachment, err error) {
	content, err := os.ReadFile(l.path(id))
	if err != nil {
		return a, fmt.Errorf("read attachment: %w", err)
	}
	if err := json.Unmarshal(content, &a); err != nil {
		return a, fmt.Errorf("decode attachment: %w", err)
	}
	return a, nil
}

func (l ledger) remove(id string) error {
	if err := os.Remove(l.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove attachment record: %w", err)
	}
	return nil
}

func (l ledger) ids() ([]string, error) {
	entries, err := os.ReadDir(string(l))
	if err != nil {
		return nil, fmt.Errorf("read attachment ledger: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), recordSuffix); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
