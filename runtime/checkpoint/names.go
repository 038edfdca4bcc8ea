package checkpoint

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Names of the archive's members, as the other writers and readers of such archives have
// them (github.com/checkpoint-restore/checkpointctl/lib).
const (
	imagesDir  = "checkpoint"
	configDump = "config.dump"
	specDump   = "spec.dump"
	statusDump = "status.dump"
	statusFile = "status"
	rootfsDiff = "rootfs-diff.tar"
	dumpLog    = "dump.log"
	logCopy    = "container.log"
)

// Config is the content of config.dump.
type Config struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// RootfsImage is the image as the user named it, RootfsImageRef by its digest.
	RootfsImage     string    `json:"rootfsImage,omitempty"`
	RootfsImageRef  string    `json:"rootfsImageRef,omitempty"`
	RootfsImageName string    `json:"rootfsImageName,omitempty"`
	Runtime         string    `json:"runtime,omitempty"`
	CreatedTime     time.Time `json:"createdTime"`
	CheckpointedAt  time.Time `json:"checkpointedTime"`
	RestoredAt      time.Time `json:"restoredTime"`
	Restored        bool      `json:"restored"`
}

// Status is the content of status; times are in nanoseconds since 1970.
type Status struct {
	CreatedAt  int64
	StartedAt  int64
	FinishedAt int64
	ExitCode   int32
	Pid        uint32
	Reason     string
	Message    string
}

// About is what a checkpoint says of its container besides what its driver dumped.
type About struct {
	Config Config
	Status Status
	// CRIStatus is JSON.
	CRIStatus []byte
	// LogPath is the container's log; empty if there is none.
	LogPath string
}

// write puts it into the directory of a checkpoint.
func (a About) write(dir string) error {
	for name, v := range map[string]any{configDump: a.Config, statusFile: a.Status, statusDump: json.RawMessage(a.CRIStatus)} {
		text, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return fmt.Errorf("write checkpoint: %w", err)
		}
	}
	return nil
}

// SpecFile is where the OCI specification goes in the directory of a checkpoint.
func SpecFile(dir string) string { return filepath.Join(dir, specDump) }

// ImagesDir is where CRIU's images go.
func ImagesDir(dir string) string { return filepath.Join(dir, imagesDir) }

// RootfsFile is where the layer of what the container wrote goes.
func RootfsFile(dir string) string { return filepath.Join(dir, rootfsDiff) }
