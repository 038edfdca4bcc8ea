package vmsandbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// savedVersion is that of checkpoints. A restore takes no other.
const savedVersion = 1

// The files of a checkpoint. Each disk has one, named after its slot.
const (
	savedRecord = sandbox.CheckpointPrefix + ".json"
	savedState  = sandbox.CheckpointPrefix + ".state"
	savedDisk   = sandbox.CheckpointPrefix + "-%s.disk"
)

// maxSavedRecord bounds the record, in bytes: what it is of counts containers and mounts.
const maxSavedRecord = 16 << 20

// saved is what a checkpoint says of itself.
type saved struct {
	Version  int            `json:"version"`
	Platform Platform       `json:"platform"`
	Config   sandbox.Config `json:"config"`
	// Holder is as in podState, and so are the pieces Added, Images what is in the slots for images, by slot, as far as
	// the containers need it, Empty the other slots that the guest has mounted, Writable the
	// slots of disks.
	Holder     int                   `json:"holder,omitempty"`
	Added      []int64               `json:"added,omitempty"`
	Images     map[string]savedImage `json:"images"`
	Empty      []string              `json:"empty,omitempty"`
	Writable   []string              `json:"writable"`
	Containers []savedContainer      `json:"containers"`
	// Others are containers in the guest that are not to be restored, by their names there.
	Others  []savedOther         `json:"others,omitempty"`
	Volumes json.RawMessage      `json:"volumes,omitempty"`
	Files   map[string]savedFile `json:"files"`
}

type savedImage struct {
	Key   string          `json:"key"`
	Chain []digest.Digest `json:"chain"`
	// Files are the contents of the files that the disk consists of.
	Files []digest.Digest `json:"files"`
}

// savedContainer is a container by its id on the host and its name in the guest.
type savedContainer struct {
	ID     string   `json:"id"`
	Name   string   `json:"name"`
	Images []string `json:"images"`
	Slot   string   `json:"slot"`
	Memory int64    `json:"memory,omitempty"`
	// Log is how long its log was in the guest, in bytes; Logged that it has one.
	Log     int64         `json:"log"`
	Logged  bool          `json:"logged,omitempty"`
	Process specs.Process `json:"process"`
}

type savedOther struct {
	Name string `json:"name"`
	Slot string `json:"slot,omitempty"`
}

type savedFile struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// maxPiece is more memory than a machine gets at once, in bytes.
const maxPiece = 1 << 44

func sum(pieces []int64) (all int64) {
	for _, p := range pieces {
		all += p
	}
	return all
}

// measure is what a file is, from its beginning on.
func measure(ctx context.Context, f *os.File) (s savedFile, err error) {
	sum := sha256.New()
	s.Bytes, err = io.Copy(sum, &patient{ctx, io.NewSectionReader(f, 0, 1<<62)})
	s.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return s, err
}

// patient is a reader that ends with its context.
type patient struct {
	ctx context.Context
	r   io.Reader
}

func (p *patient) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	return p.r.Read(b)
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("checkpoint: %s: %w", fmt.Sprintf(format, args...), errdefs.ErrDataLoss)
}

func unfit(format string, args ...any) error {
	return fmt.Errorf("checkpoint does not fit: %s: %w", fmt.Sprintf(format, args...), errdefs.ErrFailedPrecondition)
}

// openSaved opens a file of a checkpoint: a plain file in that very directory.
func openSaved(dir, name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return nil, damaged("%s is not there", name)
	}
	if err != nil {
		return nil, fmt.Errorf("open checkpoint: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = damaged("%s is no plain file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// readSaved reads the record of a checkpoint and checks that it could be one: what lies
// there need not come from here.
func readSaved(dir string) (*saved, error) {
	f, err := openSaved(dir, savedRecord)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSavedRecord+1))
	if err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	if len(content) > maxSavedRecord {
		return nil, damaged("%s is longer than %d bytes", savedRecord, maxSavedRecord)
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(content, &version); err != nil {
		return nil, damaged("%s: %v", savedRecord, err)
	}
	if version.Version != savedVersion {
		return nil, unfit("it is of version %d, this is version %d", version.Version, savedVersion)
	}
	var s saved
	if err := json.Unmarshal(content, &s); err != nil {
		return nil, damaged("%s: %v", savedRecord, err)
	}
	return &s, s.check()
}

func (s *saved) check() error {
	readOnly, writable := vmm.Slots()
	for _, slot := range s.Writable {
		if _, ok := s.Files[fmt.Sprintf(savedDisk, slot)]; !ok || !slices.Contains(writable, slot) {
			return damaged("disk %.50q", slot)
		}
	}
	if _, ok := s.Files[savedState]; !ok || len(s.Files) != len(s.Writable)+1 || len(s.Writable) > len(writable) {
		return damaged("%d files for %d disks", len(s.Files), len(s.Writable))
	}
	if s.Holder < 0 || len(s.Containers) == 0 {
		return damaged("%d containers, holder %d", len(s.Containers), s.Holder)
	}
	for _, piece := range s.Added {
		if piece <= 0 || piece%memoryStep != 0 || piece > maxPiece {
			return damaged("%d bytes of added memory", piece)
		}
	}
	for slot, i := range s.Images {
		if !slices.Contains(readOnly, slot) || i.Key != imageKey(i.Chain) {
			return damaged("image in %.50q", slot)
		}
	}
	for _, slot := range s.Empty {
		if _, ok := s.Images[slot]; ok || !slices.Contains(readOnly, slot) {
			return damaged("empty %.50q", slot)
		}
	}
	var names []string
	for _, c := range s.Containers {
		if !slices.Contains(s.Writable, c.Slot) || c.Log < 0 || c.Memory < 0 || c.ID == "" {
			return damaged("container %.100q", c.ID)
		}
		names = append(names, c.Name)
	}
	for _, o := range s.Others {
		if o.Slot != "" && !slices.Contains(s.Writable, o.Slot) {
			return damaged("container %.100q", o.Name)
		}
		names = append(names, o.Name)
	}
	slices.Sort(names)
	for i, name := range names {
		if name == "" || name != cleanName(name) || strings.HasPrefix(name, ".") || len(name) > 128 || i > 0 && names[i-1] == name {
			return damaged("container %.100q", name)
		}
	}
	return nil
}

// fits says in what a platform is another.
func (p Platform) fits(here Platform) error {
	for _, d := range []struct{ what, was, is any }{
		{"hypervisor", p.Hypervisor, here.Hypervisor},
		{"machine", p.Machine, here.Machine},
		{"accelerator", p.Accelerator, here.Accelerator},
		{"processor", p.CPU, here.CPU},
		{"number of processors", p.VCPUs, here.VCPUs},
		{"memory in MiB", p.MemoryMiB, here.MemoryMiB},
		{"greatest memory in MiB", p.MaxMemoryMiB, here.MaxMemoryMiB},
		{"size of disks", p.DiskBytes, here.DiskBytes},
		{"kernel", p.Kernel, here.Kernel},
		{"initramfs", p.Initrd, here.Initrd},
		{"version of the guest's calls", p.Agent, here.Agent},
	} {
		if d.was != d.is {
			return unfit("%s: it was made with %q, here is %q", d.what, fmt.Sprint(d.was), fmt.Sprint(d.is))
		}
	}
	return nil
}
