package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// recordVersion changes when old readers would misunderstand a record.
const recordVersion = 1

// record is the file of one image.
type record struct {
	Version int           `json:"version"`
	ID      digest.Digest `json:"id"`
	// Config is the configuration, byte for byte: its digest is the id, which makes the
	// record its own checksum.
	Config []byte `json:"config"`
	// Manifest is an artifact's, byte for byte: its digest is the id then, and it names the
	// configuration's. Images have none.
	Manifest []byte `json:"manifest,omitempty"`
	// DiffIDs are the layers, the lowest first.
	DiffIDs []digest.Digest `json:"diffIds"`
	// Tags are full names, each with a number that grows with every tag given on this
	// node: where two records claim a name after a crash, the greater number has it.
	Tags map[string]uint64 `json:"tags,omitempty"`
	// Digests are full names with the digest they were pulled by, sorted.
	Digests []string `json:"digests"`
	Size    uint64   `json:"size"`
	// Signatures are, for each repository, those of its last pull for which a policy asked
	// for some.
	Signatures []signed  `json:"signatures,omitempty"`
	PulledAt   time.Time `json:"pulledAt"`
	// Pinned: garbage collection spares the image, whatever the configuration says.
	Pinned bool `json:"pinned,omitempty"`
	// Checkpoint is the mark by which every manifest that led to the image, or its
	// configuration, calls it a checkpoint of a container.
	Checkpoint string `json:"checkpoint,omitempty"`
}

// check finds out whether the record is what was written.
func (r record) check(file string) error {
	switch {
	case r.Version != recordVersion:
		return fmt.Errorf("%w: version %d is unknown", errdefs.ErrFailedPrecondition, r.Version)
	case r.file() != file:
		return fmt.Errorf("%w: record of %s under a foreign name", errdefs.ErrFailedPrecondition, r.ID)
	case r.Manifest != nil:
		return r.checkArtifact()
	case digest.FromBytes(r.Config) != r.ID:
		return fmt.Errorf("%w: configuration has another digest than the id", errdefs.ErrFailedPrecondition)
	}
	config, err := parseConfig(r.Config)
	if err == nil && !slices.Equal(config.RootFS.DiffIDs, r.DiffIDs) {
		err = fmt.Errorf("%w: layers differ from the configuration's", errdefs.ErrFailedPrecondition)
	}
	return err
}

// content is an image's configuration, or the type of an artifact.
func (r record) content() (config ocispec.Image, artifact string, err error) {
	if r.Manifest == nil {
		config, err = parseConfig(r.Config)
		return config, "", err
	}
	src, _, err := r.asArtifact()
	return config, src.artifact.kind, err
}

func (r record) checkArtifact() error {
	if digest.FromBytes(r.Manifest) != r.ID {
		return fmt.Errorf("%w: manifest has another digest than the id", errdefs.ErrFailedPrecondition)
	}
	src, doc, err := r.asArtifact()
	switch {
	case err != nil:
		return err
	case doc.Config.Digest.Algorithm().FromBytes(r.Config) != doc.Config.Digest:
		return fmt.Errorf("%w: configuration has another digest than the manifest says", errdefs.ErrFailedPrecondition)
	case !slices.Equal(src.diffIDs, r.DiffIDs):
		return fmt.Errorf("%w: layers differ from the manifest's", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// asArtifact reads the manifest of an artifact's record as a pull does.
func (r record) asArtifact() (source, document, error) {
	doc, err := parseDocument(r.Manifest)
	if err == nil && doc.Config == nil {
		err = fmt.Errorf("%w: the manifest is an index", errdefs.ErrFailedPrecondition)
	}
	if err == nil {
		err = checkDigest(doc.Config.Digest)
	}
	if err != nil {
		return source{}, doc, err
	}
	src := source{manifest: r.ID}
	err = src.readArtifact(doc)
	return src, doc, err
}

func (r record) file() string { return r.ID.Encoded() + recordSuffix }

const (
	recordSuffix = ".json"
	tempSuffix   = ".tmp" // being written
	badSuffix    = ".bad" // could not be read, set aside
)

// write makes the record durable, whole or not at all.
func (r record) write(dir string) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	path := filepath.Join(dir, r.file())
	err = writeSynced(path+tempSuffix, raw)
	if err == nil {
		err = os.Rename(path+tempSuffix, path)
	}
	if err != nil {
		_ = os.Remove(path + tempSuffix) // or else Open does
		return fmt.Errorf("write record: %w", err)
	}
	_ = os.Remove(path + badSuffix) // what was set aside of the image is made good; mostly there is none
	return syncDir(dir)
}

func writeSynced(path string, raw []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// erase makes the record's absence durable. It needs no free space on the disk.
func (r record) erase(dir string) error {
	err := os.Remove(filepath.Join(dir, r.file()))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove record: %w", err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

// load reads all records. What cannot be read is reported and set aside, so that it
// neither stops the daemon nor hides a good record of the same image later.
func load(dir string, report func(file string, err error)) ([]record, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	var records []record
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		switch {
		case strings.HasSuffix(f.Name(), tempSuffix):
			if err := os.Remove(path); err != nil { // a write that did not end
				report(f.Name(), err)
			}
		case strings.HasSuffix(f.Name(), recordSuffix):
			r, err := read(path)
			if err != nil {
				report(f.Name(), errors.Join(err, os.Rename(path, path+badSuffix)))
				continue
			}
			records = append(records, r)
		}
	}
	return records, nil
}

// maxRecord is more than the record of the largest documents and the most signatures takes.
const maxRecord = 2*maxConfig + 2*maxManifest + 2*maxSigned + 4<<20

func read(path string) (record, error) {
	var r record
	info, err := os.Stat(path)
	if err != nil {
		return r, err
	}
	if info.Size() > maxRecord {
		return r, fmt.Errorf("%w: %d bytes", errdefs.ErrFailedPrecondition, info.Size())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, err
	}
	return r, r.check(filepath.Base(path))
}
