package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// moduleDir holds the modules in the cache; in the guest it is /lib/modules.
const moduleDir = "modules"

// Files beside the modules, for cricket-guest. Each line has words that spaces separate.
const (
	bootList    = "boot"    // the modules to load, in order
	dependsList = "depends" // a module and those to load before it
	aliasList   = "alias"   // a pattern and the module that it stands for
)

// selection identifies which modules are unpacked, and how.
func selection() string {
	sum := sha256.Sum256([]byte(strings.Join(slices.Concat([]string{"3"}, atBoot(), []string{"/"}, onDemand()), " ")))
	return hex.EncodeToString(sum[:4])
}

// writeModules unpacks the modules that a guest may need, and says what it is to know of
// them.
func writeModules(ctx context.Context, dir string, packed map[string][]byte) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	loaded := make(map[string]module)
	load := func(name string) (module, bool, error) {
		if m, ok := loaded[name]; ok {
			return m, true, nil
		}
		data, ok := packed[name]
		if !ok {
			return module{}, false, nil
		}
		m, err := unpackModule(ctx, name, data)
		loaded[name] = m
		return m, err == nil, err
	}
	boot, err := order(atBoot(), load)
	if err != nil {
		return err
	}
	all, err := order(slices.Concat(atBoot(), onDemand()), load)
	if err != nil {
		return err
	}
	lists := make(map[string]*strings.Builder)
	for _, name := range []string{bootList, dependsList, aliasList} {
		lists[name] = &strings.Builder{}
	}
	for _, m := range boot {
		fmt.Fprintln(lists[bootList], m.name)
	}
	for _, m := range all {
		fmt.Fprintln(lists[dependsList], strings.Join(append([]string{m.name}, m.depends...), " "))
		for _, a := range m.aliases {
			fmt.Fprintln(lists[aliasList], a, m.name)
		}
		file, data := m.name+".ko", m.data
		if !slices.ContainsFunc(boot, func(b module) bool { return b.name == m.name }) {
			// It stays in the guest's memory, and may never be asked for.
			if file, data = file+".gz", pack(data); data == nil {
				return fmt.Errorf("pack module %s", m.name)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
			return err
		}
	}
	for name, text := range lists {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// pack compresses; the result depends on nothing but the data. It is nil on failure.
func pack(data []byte) []byte {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil
	}
	if _, err := w.Write(data); err != nil || w.Close() != nil {
		return nil
	}
	return out.Bytes()
}

// unpackModule unpacks a module as Debian packs it.
func unpackModule(ctx context.Context, name string, packed []byte) (module, error) {
	cmd := exec.CommandContext(ctx, "xz", "-dc")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(packed), os.Stderr
	data, err := cmd.Output()
	if err != nil {
		return module{}, fmt.Errorf("unpack module %s: %w", name, err)
	}
	return parseModule(name, data)
}

// moduleFiles are the files of a directory that writeModules wrote, for an initial RAM
// file system.
func moduleFiles(dir string) ([]entry, error) {
	list, err := os.ReadDir(dir) // sorted
	if err != nil {
		return nil, err
	}
	var out []entry
	for _, e := range list {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		out = append(out, entry{name: "lib/modules/" + e.Name(), mode: modeFile | 0o644, data: data})
	}
	return out, nil
}
