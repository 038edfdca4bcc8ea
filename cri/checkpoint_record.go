package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/store"
)

// checkpointFile is what the service says of a checkpoint; the driver's own files are beside
// it. It is written last: a directory without it is no checkpoint.
const checkpointFile = "checkpoint.json"

// checkpointVersion is that of the file. A restore takes no other.
const checkpointVersion = 1

// maxCheckpointFile bounds the file, in bytes.
const maxCheckpointFile = 16 << 20

// checkpointRecord is the content of checkpointFile.
type checkpointRecord struct {
	Version int       `json:"version"`
	Made    time.Time `json:"made"`
	// Handler is the runtime handler that the pod had.
	Handler    string                `json:"handler"`
	Containers []checkpointContainer `json:"containers"`
}

// checkpointContainer is one container of a checkpoint.
type checkpointContainer struct {
	ID string `json:"id"`
	// ImageID is the digest of the image's configuration.
	ImageID string `json:"imageID"`
	// Config is the CRI's ContainerConfig as protobuf bytes.
	Config []byte `json:"config"`

	config *v1.ContainerConfig
}

func newCheckpointRecord(pod *store.Sandbox, containers []*store.Container) ([]byte, error) {
	r := checkpointRecord{Version: checkpointVersion, Made: time.Now().UTC(), Handler: pod.Handler}
	for _, c := range containers {
		config, err := proto.Marshal(c.Config)
		if err != nil {
			return nil, fmt.Errorf("encode configuration: %w", err)
		}
		r.Containers = append(r.Containers, checkpointContainer{ID: c.ID, ImageID: c.ImageID, Config: config})
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode checkpoint: %w", err)
	}
	return text, nil
}

// writeCheckpointRecord makes the file, or leaves none.
func writeCheckpointRecord(dir string, text []byte) error {
	path := filepath.Join(dir, checkpointFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("create %s: %w", checkpointFile, err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", checkpointFile, err), os.Remove(path))
	}
	return nil
}

// readCheckpointRecord reads and checks the file: it need not be what was written.
func readCheckpointRecord(dir string) (*checkpointRecord, error) {
	damaged := func(format string, args ...any) error {
		return fmt.Errorf("checkpoint_path: %s: %w", fmt.Sprintf(format, args...), errdefs.ErrDataLoss)
	}
	f, err := os.OpenFile(filepath.Join(dir, checkpointFile), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("checkpoint_path: there is no checkpoint in it: %w", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, fmt.Errorf("checkpoint_path: %w: %w", errdefs.ErrFailedPrecondition, err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() || st.Size() > maxCheckpointFile {
		return nil, damaged("%s is no plain file of at most %d bytes", checkpointFile, maxCheckpointFile)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxCheckpointFile))
	if err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	var r checkpointRecord
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, damaged("%s: %v", checkpointFile, err)
	}
	if r.Version != checkpointVersion {
		return nil, fmt.Errorf("checkpoint_path: it is of version %d, this is %d: %w", r.Version, checkpointVersion, errdefs.ErrFailedPrecondition)
	}
	var names, ids []string
	for i := range r.Containers {
		c := &r.Containers[i]
		c.config = &v1.ContainerConfig{}
		if err := proto.Unmarshal(c.Config, c.config); err != nil {
			return nil, damaged("configuration of a container: %v", err)
		}
		name := c.config.GetMetadata().GetName()
		if name == "" || slices.Contains(names, name) || slices.Contains(ids, c.ID) {
			return nil, damaged("name %.100q or id of a container", name)
		}
		names, ids = append(names, name), append(ids, c.ID)
	}
	return &r, nil
}

// needDeadline refuses a call that could take for ever.
func needDeadline(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		return fmt.Errorf("the call has no deadline: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// noOptions refuses options of checkpoints and restores: there are none.
func noOptions(options map[string]string) error {
	for key := range options {
		return badField("options", "%q is not known", key)
	}
	return nil
}
