package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pelletier/go-toml/v2"
)

// registry speaks for one pull with the endpoints of one registry. Connections, tokens
// and the operator's configuration live as long as the pull.
type registry struct {
	resolver remotes.Resolver
	full     string
	creds    *credentials
	progress *progress
	backoff  time.Duration
	log      *slog.Logger

	mu    sync.Mutex
	hosts map[string][]docker.RegistryHost
	idle  []*http.Transport
}

func (s *Store) registry(ctx context.Context, n name, auth *Auth, p *progress) *registry {
	r := &registry{
		full: n.full, progress: p, backoff: s.opts.Backoff, log: s.opts.Log,
		creds: &credentials{auth: auth}, hosts: map[string][]docker.RegistryHost{},
	}
	configure := config.ConfigureHosts(ctx, config.HostOptions{
		HostDir:      hostDir(s.opts.HostsDir),
		Credentials:  r.creds.forHost,
		UpdateClient: r.count,
	})
	r.resolver = docker.NewResolver(docker.ResolverOptions{
		Hosts:   func(host string) ([]docker.RegistryHost, error) { return r.endpoints(host, configure) },
		Headers: http.Header{"User-Agent": {s.opts.UserAgent}},
	})
	return r
}

// endpoints asks the configuration once per pull, so that one authorizer keeps its
// tokens and one transport its connections.
func (r *registry) endpoints(host string, configure docker.RegistryHosts) ([]docker.RegistryHost, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, ok := r.hosts[host]; ok {
		return known, nil
	}
	hosts, err := configure(host)
	if err != nil {
		return nil, fmt.Errorf("read configuration of registry %s: %w: %w", host, errdefs.ErrFailedPrecondition, err)
	}
	for i := range hosts {
		r.creds.admit(hosts[i].Host)
		if r.creds.auth != nil && r.creds.auth.RegistryToken != "" {
			hosts[i].Authorizer = bearer{r.creds}
		}
	}
	r.hosts[host] = hosts
	return hosts, nil
}

// count puts our transport around containerd's. It is called while r.mu is held.
func (r *registry) count(client *http.Client) error {
	if base, ok := client.Transport.(*http.Transport); ok {
		r.idle = append(r.idle, base)
		client.Transport = transport{base, r.progress}
	}
	return nil
}

func (r *registry) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.idle {
		t.CloseIdleConnections()
	}
}

// resolve asks what the reference leads to.
func (r *registry) resolve(ctx context.Context) (ocispec.Descriptor, error) {
	return r.find(ctx, r.full)
}

// find asks what another reference of the same registry leads to.
func (r *registry) find(ctx context.Context, ref string) (desc ocispec.Descriptor, err error) {
	err = r.retry(ctx, func() error {
		_, desc, err = r.resolver.Resolve(ctx, ref)
		return err
	})
	if err != nil {
		return desc, err
	}
	return desc, checkDigest(desc.Digest)
}

// fetch opens a blob or manifest at a byte offset. What the descriptor says of other
// places to fetch from is not followed.
func (r *registry) fetch(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	desc.URLs, desc.Data = nil, nil
	fetcher, err := r.resolver.Fetcher(ctx, r.full)
	if err != nil {
		return nil, err
	}
	rc, err := fetcher.Fetch(ctx, desc)
	if err != nil || offset == 0 {
		return rc, err
	}
	seeker, ok := rc.(io.Seeker)
	if !ok {
		rc.Close()
		return nil, fmt.Errorf("resume at byte %d: %w", offset, errdefs.ErrNotImplemented)
	}
	if _, err := seeker.Seek(offset, io.SeekStart); err != nil {
		rc.Close()
		return nil, err
	}
	return rc, nil
}

// document fetches and checks something small.
func (r *registry) document(ctx context.Context, desc ocispec.Descriptor, limit int64) (raw []byte, err error) {
	if desc.Size < 0 || desc.Size > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", errdefs.ErrFailedPrecondition, desc.Size, limit)
	}
	if err := checkDigest(desc.Digest); err != nil {
		return nil, err
	}
	err = r.retry(ctx, func() error {
		rc, err := r.fetch(ctx, desc, 0)
		if err != nil {
			return err
		}
		defer rc.Close()
		raw, err = io.ReadAll(newVerifier(rc, desc))
		return err
	})
	return raw, err
}

// attempts is how often one small request is made, and how often one layer's stream is
// taken up again.
const attempts = 5

// retry repeats what fails for a passing reason.
func (r *registry) retry(ctx context.Context, do func() error) error {
	for i := 0; ; i++ {
		err := do()
		if err == nil || !transient(err) || i == attempts-1 {
			return err
		}
		r.log.Debug("registry request is repeated", "image", r.full, "attempt", i+1, "error", err)
		if waitErr := pause(ctx, r.backoff<<i); waitErr != nil {
			return errors.Join(waitErr, err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// hostDir finds the directory of a registry as containerd does, but takes a hosts.toml
// that cannot be read for an error: falling back to the registry itself would go
// around the mirror that the operator asked for.
func hostDir(root string) func(string) (string, error) {
	if root == "" {
		return nil
	}
	find := config.HostDirFromRoot(root)
	return func(host string) (string, error) {
		dir, err := find(host)
		if err != nil {
			return "", err
		}
		file := filepath.Join(dir, "hosts.toml")
		raw, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			return dir, nil
		}
		if err != nil {
			return "", err
		}
		var any map[string]any
		if err := toml.Unmarshal(raw, &any); err != nil {
			return "", fmt.Errorf("parse %s: %w", file, err)
		}
		return dir, nil
	}
}
