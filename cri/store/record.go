package store

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
)

// version of the records on disk. A record of another version is a broken one.
const version = 1

// Sandbox is what is known of a sandbox.
type Sandbox struct {
	ID      string `json:"id"`
	Boot    string `json:"boot"`
	Handler string `json:"handler"` // name of the runtime handler, resolved
	// Requested is the handler as the request named it.
	Requested string `json:"requested"`
	// Config as it was requested.
	Config *v1.PodSandboxConfig `json:"-"`
	// Resources and Overhead are the limits of the pod as a whole as they are now; nil where
	// there are none, and in records that do not have them yet.
	Resources *runtime.Resources `json:"resources,omitempty"`
	Overhead  *runtime.Resources `json:"overhead,omitempty"`
	// Driver is what the driver needs to find the sandbox again.
	Driver sandbox.Record `json:"driver"`

	// ProcessLabel and MountLabel are the SELinux labels of the pod.
	ProcessLabel string `json:"processLabel,omitempty"`
	MountLabel   string `json:"mountLabel,omitempty"`

	CreatedAt time.Time `json:"createdAt"`
	// ReadyAt is zero for an intent: the sandbox is being made, or its making was
	// interrupted.
	ReadyAt time.Time `json:"readyAt"`
	// StoppedAt is when it stopped being ready, by itself or on request.
	StoppedAt time.Time `json:"stoppedAt"`
	// Released: it was stopped on request and its network is given back.
	Released bool     `json:"released,omitempty"`
	IPs      []string `json:"ips,omitempty"`
	// Broken says why the record could not be read. Nothing else is known then.
	Broken string `json:"-"`
}

// Ready says whether containers can run in the sandbox.
func (s *Sandbox) Ready() bool { return !s.ReadyAt.IsZero() && s.StoppedAt.IsZero() }

// State is Ready in the terms of the CRI.
func (s *Sandbox) State() v1.PodSandboxState {
	if s.Ready() {
		return v1.PodSandboxState_SANDBOX_READY
	}
	return v1.PodSandboxState_SANDBOX_NOTREADY
}

// Pending says that the sandbox is no more than an intent.
func (s *Sandbox) Pending() bool { return s.ReadyAt.IsZero() && s.Broken == "" }

// SandboxName is the name that a sandbox is reserved under: two sandboxes never have
// the same.
func SandboxName(m *v1.PodSandboxMetadata) string {
	return fmt.Sprintf("%s/%s/%s/%d", m.GetNamespace(), m.GetName(), m.GetUid(), m.GetAttempt())
}

func (s *Sandbox) id() string         { return s.ID }
func (s *Sandbox) created() time.Time { return s.CreatedAt }
func (s *Sandbox) clone() *Sandbox    { c := *s; return &c }

func (s *Sandbox) name() string {
	if s.Broken != "" {
		return s.ID
	}
	return SandboxName(s.Config.GetMetadata())
}

// Container is what is known of a container.
type Container struct {
	ID        string `json:"id"`
	SandboxID string `json:"sandbox"`
	Boot      string `json:"boot"`
	// Config as it was requested.
	Config *v1.ContainerConfig `json:"-"`

	ImageID  string `json:"imageID"`  // digest of the image's configuration
	ImageRef string `json:"imageRef"` // repository digest, or the id
	// VolumeRefs are the ids of image volumes, by where they are mounted.
	VolumeRefs map[string]string `json:"volumeRefs,omitempty"`
	// ImageName is a tag of the image, empty if it has none.
	ImageName string `json:"imageName,omitempty"`
	LogPath   string `json:"logPath,omitempty"`
	// Resources are the limits as they are now.
	Resources *runtime.Resources `json:"resources,omitempty"`
	// StopSignal is the signal that StopContainer sends, by its number.
	StopSignal unix.Signal `json:"stopSignal"`
	// User is what the container's first process runs as.
	User specs.User `json:"user"`
	// Shown is what NRI plugins see of the container beside this record (nri.Keep);
	// empty if it was made without NRI.
	Shown []byte `json:"shown,omitempty"`

	CreatedAt time.Time `json:"createdAt"`
	// MadeAt is zero for an intent.
	MadeAt     time.Time `json:"madeAt"`
	StartedAt  time.Time `json:"startedAt"`
	FinishedAt time.Time `json:"finishedAt"`
	Pid        int       `json:"pid,omitempty"` // of the first process, on the host
	ExitCode   int32     `json:"exitCode"`
	Reason     string    `json:"reason,omitempty"`
	Message    string    `json:"message,omitempty"`
	// Broken says why the record could not be read. Nothing else is known then.
	Broken string `json:"-"`
}

// State is derived from the facts.
func (c *Container) State() v1.ContainerState {
	switch {
	case c.Broken != "":
		return v1.ContainerState_CONTAINER_UNKNOWN
	case !c.FinishedAt.IsZero():
		return v1.ContainerState_CONTAINER_EXITED
	case !c.StartedAt.IsZero():
		return v1.ContainerState_CONTAINER_RUNNING
	default:
		return v1.ContainerState_CONTAINER_CREATED
	}
}

// Pending says that the container is no more than an intent.
func (c *Container) Pending() bool { return c.MadeAt.IsZero() && c.Broken == "" }

// ContainerName is the name that a container is reserved under: two containers never
// have the same.
func ContainerName(sandboxID string, m *v1.ContainerMetadata) string {
	return fmt.Sprintf("%s/%s/%d", sandboxID, m.GetName(), m.GetAttempt())
}

func (c *Container) id() string         { return c.ID }
func (c *Container) created() time.Time { return c.CreatedAt }
func (c *Container) clone() *Container  { d := *c; return &d }

func (c *Container) name() string {
	if c.Broken != "" {
		return c.ID
	}
	return ContainerName(c.SandboxID, c.Config.GetMetadata())
}

// onDisk is a record with its configuration as protobuf bytes, which keeps fields that
// this version of the API does not know.
type onDisk struct {
	Version int             `json:"version"`
	Record  json.RawMessage `json:"record"`
	Config  []byte          `json:"config"`
}

func encode(record any, config proto.Message) ([]byte, error) {
	pb, err := proto.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	text, err := json.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return json.Marshal(onDisk{version, text, pb})
}

func decode(text []byte, record any, config proto.Message) error {
	var d onDisk
	if err := json.Unmarshal(text, &d); err != nil {
		return fmt.Errorf("decode record: %w", err)
	}
	if d.Version != version {
		return fmt.Errorf("decode record of version %d: %w", d.Version, errdefs.ErrNotImplemented)
	}
	if err := json.Unmarshal(d.Record, record); err != nil {
		return fmt.Errorf("decode record: %w", err)
	}
	if err := proto.Unmarshal(d.Config, config); err != nil {
		return fmt.Errorf("decode configuration: %w", err)
	}
	return nil
}

func (s *Sandbox) encode() ([]byte, error)   { return encode(s, s.Config) }
func (c *Container) encode() ([]byte, error) { return encode(c, c.Config) }

func decodeSandbox(id string, text []byte) (*Sandbox, error) {
	s := &Sandbox{Config: &v1.PodSandboxConfig{}}
	if err := decode(text, s, s.Config); err != nil {
		return nil, err
	}
	return s, mustBe(id, s.ID)
}

func decodeContainer(id string, text []byte) (*Container, error) {
	c := &Container{Config: &v1.ContainerConfig{}}
	if err := decode(text, c, c.Config); err != nil {
		return nil, err
	}
	return c, mustBe(id, c.ID)
}

func mustBe(want, got string) error {
	if want != got {
		return fmt.Errorf("decode record: it names %q: %w", got, errdefs.ErrDataLoss)
	}
	return nil
}

// Clients read the metadata of all that is listed, so a broken record has some.
func brokenSandbox(id, why string) *Sandbox {
	m := &v1.PodSandboxMetadata{Name: "unreadable-" + id, Namespace: unknown, Uid: id}
	return &Sandbox{ID: id, Config: &v1.PodSandboxConfig{Metadata: m}, CreatedAt: time.Now(), Broken: why}
}

func brokenContainer(id, why string) *Container {
	m := &v1.ContainerMetadata{Name: "unreadable-" + id}
	c := &v1.ContainerConfig{Metadata: m, Image: &v1.ImageSpec{Image: unknown}}
	return &Container{ID: id, Config: c, ImageID: unknown, ImageRef: unknown, CreatedAt: time.Now(), Broken: why}
}

// unknown fills fields without which clients (k8s.io/cri-client) refuse an object, and so
// could not remove it.
const unknown = "unknown"
