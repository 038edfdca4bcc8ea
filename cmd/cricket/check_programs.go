package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/cricket-cri/cricket/cri/config"
	"github.com/cricket-cri/cricket/runtime/oci"
)

// programTime bounds a program that is asked what it is.
const programTime = 10 * time.Second

func (h host) runtimes(ctx context.Context) []finding {
	var all []finding
	usable := 0
	for _, name := range slices.Sorted(maps.Keys(h.config.Runtimes)) {
		if h.config.Runtimes[name].Type == config.TypeVM {
			all = append(all, examineVirtual(ctx, name, h.config.VM))
			continue
		}
		f := examineRuntime(ctx, name, h.config.Runtimes[name])
		if f.Grade == good {
			usable++
		}
		all = append(all, f)
	}
	if usable == 0 {
		all = append(all, finding{Name: "OCI runtimes", Grade: failed, Detail: "none", Lacks: "containers", Fix: "apt-get install crun"})
	}
	return all
}

func examineRuntime(ctx context.Context, name string, r config.Runtime) finding {
	program := r.Path
	if program == "" {
		program = name
	}
	f := finding{Name: "runtime " + name, Grade: limited, Lacks: "pods whose RuntimeClass names " + name, Fix: "apt-get install " + name}
	found, err := oci.Find(program)
	if err != nil {
		f.Detail = program + " is not installed"
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, programTime)
	defer cancel()
	text, err := exec.CommandContext(ctx, found.Path, "--version").Output()
	if err != nil {
		f.Detail = fmt.Sprintf("%s --version: %v", found.Path, err)
		return f
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return ok(f.Name, "%s, %s, %s", found.Path, line, features(ctx, found.Path))
}

// features says what the runtime tells of itself (runc since 1.1, crun since 1.8.6).
func features(ctx context.Context, path string) string {
	text, err := exec.CommandContext(ctx, path, "features").Output()
	var known struct {
		Min string `json:"ociVersionMin"`
		Max string `json:"ociVersionMax"`
	}
	if err != nil || json.Unmarshal(text, &known) != nil {
		return "tells no features"
	}
	return "OCI " + known.Min + " to " + known.Max
}

func (h host) network(context.Context) []finding {
	dir := h.config.Network.ConfDir
	file, types, err := firstNetwork(dir)
	if err != nil {
		return []finding{{Name: "CNI network", Grade: failed, Detail: err.Error(), Lacks: "pods with a network of their own",
			Fix: "install a network (a cluster's network add-on does), or write " + dir + "/10-cricket.conflist"}}
	}
	all := []finding{ok("CNI network", "%s: %s", file, strings.Join(types, ", "))}
	var lacks []string
	for _, t := range types {
		if !h.hasPlugin(t) {
			lacks = append(lacks, t)
		}
	}
	dirs := strings.Join(h.config.Network.BinDirs, ", ")
	if len(lacks) > 0 {
		return append(all, finding{Name: "CNI plugins", Grade: failed, Detail: "not in " + dirs,
			Lacks: strings.Join(lacks, ", "), Fix: "apt-get install containernetworking-plugins"})
	}
	return append(all, ok("CNI plugins", "all in %s", dirs))
}

// plugin is what names a program in a network configuration.
type plugin struct {
	Type string `json:"type"`
	IPAM struct {
		Type string `json:"type"`
	} `json:"ipam"`
}

// firstNetwork reads the configuration that the daemon would take, the first valid one
// by name, and names its plugins.
func firstNetwork(dir string) (file string, types []string, err error) {
	files, err := libcni.ConfFiles(dir, []string{".conflist", ".conf", ".json"})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", nil, err
	}
	slices.Sort(files)
	wrong := fmt.Errorf("there is no network configuration in %s", dir)
	for _, file := range files {
		types, err := pluginTypes(file)
		if err == nil {
			return file, types, nil
		}
		wrong = fmt.Errorf("%s: %w", file, err)
	}
	return "", nil, wrong
}

func pluginTypes(file string) ([]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list struct {
		plugin
		Plugins []plugin `json:"plugins"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, err
	}
	if filepath.Ext(file) != ".conflist" {
		list.Plugins = []plugin{list.plugin}
	}
	var types []string
	for _, p := range list.Plugins {
		if p.Type == "" {
			return nil, errors.New("a plugin without a type")
		}
		types = append(types, p.Type)
		if p.IPAM.Type != "" {
			types = append(types, p.IPAM.Type)
		}
	}
	if len(types) == 0 {
		return nil, errors.New("no plugins")
	}
	return types, nil
}

func (h host) hasPlugin(name string) bool {
	return slices.ContainsFunc(h.config.Network.BinDirs, func(dir string) bool { return exists(filepath.Join(dir, name)) })
}
