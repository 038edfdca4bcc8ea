package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/wirekind"
)

// What a guest may answer at most. Lists are decoded entry by entry, since a few bytes
// of JSON can make large structures.
const (
	maxContainers   = 4096
	maxInterfaces   = 256
	maxDisks        = 64
	maxDevices      = 4096
	maxCapabilities = 128
	maxFileSystems  = 256
	maxName         = 256
	maxCPUs         = 4096
	maxMachineID    = 32
	// maxSkew is how far a guest's clock may be off before its times are replaced.
	maxSkew = 5 * time.Minute
)

func decodeInfo(b []byte) (Info, error) {
	var w struct {
		Version      int             `json:"version"`
		Kernel       string          `json:"kernel"`
		Devices      json.RawMessage `json:"devices"`
		Capabilities json.RawMessage `json:"capabilities"`
		FileSystems  json.RawMessage `json:"fileSystems"`
		MemoryBytes  uint64          `json:"memoryBytes"`
		CPUs         int             `json:"cpus"`
		MachineID    string          `json:"machineID"`
		UnixNanos    int64           `json:"unixNanos"`
	}
	if err := json.Unmarshal(b, &w); err != nil {
		return Info{}, err
	}
	i := Info{Version: w.Version, Kernel: wirekind.Clean(w.Kernel, maxName), MemoryBytes: w.MemoryBytes, CPUs: w.CPUs, UnixNanos: w.UnixNanos}
	i.MachineID = wirekind.Clean(w.MachineID, maxMachineID)
	if i.CPUs < 0 || i.CPUs > maxCPUs || i.Version < 0 {
		return Info{}, fmt.Errorf("%d CPUs, version %d", i.CPUs, i.Version)
	}
	var err error
	if i.Devices, err = decodeList(w.Devices, maxDevices, checkDevice); err != nil {
		return Info{}, fmt.Errorf("devices: %w", err)
	}
	if i.Capabilities, err = decodeList(w.Capabilities, maxCapabilities, checkName); err != nil {
		return Info{}, fmt.Errorf("capabilities: %w", err)
	}
	if i.FileSystems, err = decodeList(w.FileSystems, maxFileSystems, checkName); err != nil {
		return Info{}, fmt.Errorf("file systems: %w", err)
	}
	return i, nil
}

func checkDevice(d *specs.LinuxDevice) error {
	if err := checkPath(d.Path); err != nil || !strings.HasPrefix(d.Path, "/dev/") {
		return fmt.Errorf("path %.200q", d.Path)
	}
	if len(d.Type) != 1 || !strings.Contains("bcup", d.Type) || d.Major < 0 || d.Minor < 0 || d.Major >= 1<<20 || d.Minor >= 1<<20 {
		return fmt.Errorf("device %.200q is %.20q %d:%d", d.Path, d.Type, d.Major, d.Minor)
	}
	return nil
}

// checkName wants something short and printable without spaces or slashes.
func checkName(name *string) error {
	if *name == "" || len(*name) > maxName || strings.ContainsFunc(*name, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
		return fmt.Errorf("name %.100q", *name)
	}
	return nil
}

func decodeFile(b, content []byte, path string) (File, error) {
	var w wireFile
	if err := json.Unmarshal(b, &w); err != nil {
		return File{}, err
	}
	if w.Size != len(content) || w.Size > maxContent {
		return File{}, fmt.Errorf("file of %d bytes, %d are there", w.Size, len(content))
	}
	kind := w.Mode & unix.S_IFMT
	if w.Mode > 0o177777 || kind != unix.S_IFREG && (kind != unix.S_IFLNK || w.Size >= unix.PathMax) {
		return File{}, fmt.Errorf("file with mode %o and %d bytes", w.Mode, w.Size)
	}
	return File{Path: path, Mode: w.Mode, UID: w.UID, GID: w.GID, Content: content}, nil
}

func decodeStat(b []byte) (Stat, error) {
	var w struct {
		Guest      runtime.Stat    `json:"guest"`
		Pod        runtime.Stat    `json:"pod"`
		Containers json.RawMessage `json:"containers"`
		Network    json.RawMessage `json:"network"`
		Disks      json.RawMessage `json:"disks"`
	}
	if err := json.Unmarshal(b, &w); err != nil {
		return Stat{}, err
	}
	s := Stat{Guest: w.Guest, Pod: w.Pod}
	now := time.Now()
	tidy(&s.Guest, now)
	tidy(&s.Pod, now)
	var err error
	s.Containers, err = decodeMap(w.Containers, maxContainers, func(c *runtime.Stat) { tidy(c, now) })
	if err != nil {
		return Stat{}, fmt.Errorf("containers: %w", err)
	}
	s.Network, err = decodeList(w.Network, maxInterfaces, func(n *runtime.NetworkStat) error { return checkName(&n.Name) })
	if err != nil {
		return Stat{}, fmt.Errorf("network: %w", err)
	}
	s.Disks, err = decodeMap(w.Disks, maxDisks, func(d *runtime.DiskUsage) {
		if d.At = tidyTime(d.At, now); d.FS != nil {
			d.FS.Device = wirekind.Clean(d.FS.Device, maxName)
		}
	})
	if err != nil {
		return Stat{}, fmt.Errorf("disks: %w", err)
	}
	return s, nil
}

// tidy keeps figures in the ranges that they can have.
func tidy(s *runtime.Stat, now time.Time) {
	s.At = tidyTime(s.At, now)
	for i := range s.IO {
		s.IO[i].Device = wirekind.Clean(s.IO[i].Device, maxName)
	}
	for i := range s.Hugetlb {
		s.Hugetlb[i].PageSize = wirekind.Clean(s.Hugetlb[i].PageSize, maxName)
	}
	for _, p := range []*runtime.Pressure{s.CPUPressure, s.MemoryPressure, s.IOPressure} {
		if p == nil {
			continue
		}
		for _, l := range []*runtime.PressureLine{&p.Some, &p.Full} {
			for _, v := range []*float64{&l.Avg10, &l.Avg60, &l.Avg300} {
				*v = min(max(*v, 0), 100)
			}
		}
	}
}

func tidyTime(t, now time.Time) time.Time {
	if d := t.Sub(now); d > maxSkew || d < -maxSkew {
		return now
	}
	return t
}

// decodeList decodes an array of at most limit entries that pass check.
func decodeList[T any](raw json.RawMessage, limit int, check func(*T) error) ([]T, error) {
	var list []T
	err := decodeEach(raw, '[', limit, func(d *json.Decoder) error {
		var v T
		if err := d.Decode(&v); err != nil {
			return err
		}
		if err := check(&v); err != nil {
			return err
		}
		list = append(list, v)
		return nil
	})
	return list, err
}

// decodeMap decodes an object of at most limit entries, whose keys are names.
func decodeMap[T any](raw json.RawMessage, limit int, tidy func(*T)) (map[string]T, error) {
	m := map[string]T{}
	err := decodeEach(raw, '{', limit, func(d *json.Decoder) error {
		token, err := d.Token()
		if err != nil {
			return err
		}
		key, ok := token.(string)
		if !ok || checkName(&key) != nil {
			return fmt.Errorf("key %.100q", fmt.Sprint(token))
		}
		var v T
		if err := d.Decode(&v); err != nil {
			return err
		}
		tidy(&v)
		m[key] = v
		return nil
	})
	return m, err
}

// decodeEach calls one for each entry of an array or object that opens so. Nothing and
// null have no entries.
func decodeEach(raw json.RawMessage, opens json.Delim, limit int, one func(*json.Decoder) error) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if token, err := d.Token(); err != nil {
		return err
	} else if token != opens {
		return fmt.Errorf("no %q", opens)
	}
	for n := 0; d.More(); n++ {
		if n == limit {
			return fmt.Errorf("more than %d", limit)
		}
		if err := one(d); err != nil {
			return err
		}
	}
	return nil
}
