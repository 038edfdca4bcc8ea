package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// registry speaks for one pull with the endpoints of one registry: its mirrors and
// itself. Connections, tokens, the operator's configuration and what was learned of the
// endpoints live as long as the pull.
type registry struct {
	full      string // the image's name
	host      string // the registry's, as the name has it
	agent     string
	stall     time.Duration
	backoff   time.Duration
	creds     *credentials
	counts    *counters
	log       *slog.Logger
	configure docker.RegistryHosts
	// barren is for how long requests got nothing, in nanoseconds; an answer resets it.
	barren atomic.Int64

	mu        sync.Mutex
	known     []endpoint // asked of the configuration once
	shunned   map[string]bool
	whole     bool                 // blobs are asked for from their begin on, not from the middle
	notBefore map[string]time.Time // when a host wants to be asked again
	private   map[string]bool      // headers from hosts.toml, in canonical form
	idle      []*http.Transport
}

// endpoint is one way to the registry. Its key is unique among them.
type endpoint struct {
	docker.RegistryHost
	key string
}

func (s *Store) registry(ctx context.Context, n name, auth *Auth) *registry {
	host, _, _ := strings.Cut(n.repo, "/")
	r := &registry{
		full: n.full, host: host, agent: s.opts.UserAgent, stall: s.opts.Stall, backoff: s.opts.Backoff,
		creds:  &credentials{auth: auth, file: authFile{ctx: ctx, path: s.opts.AuthFile}},
		counts: &s.counts, log: s.opts.Log,
		shunned: map[string]bool{}, notBefore: map[string]time.Time{}, private: map[string]bool{},
	}
	r.configure = config.ConfigureHosts(ctx, config.HostOptions{
		HostDir:      hostDir(s.opts.HostsDir),
		UpdateClient: r.adopt,
	})
	return r
}

// endpoints asks the configuration once, so that one authorizer keeps its tokens and one
// transport its connections.
func (r *registry) endpoints() ([]endpoint, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known != nil {
		return r.known, nil
	}
	hosts, err := r.configure(r.host)
	if err != nil {
		return nil, fmt.Errorf("read configuration of registry %s: %w: %w", r.host, errdefs.ErrFailedPrecondition, err)
	}
	for _, h := range hosts {
		r.creds.admit(h.Scheme, h.Host)
		for name := range h.Header {
			r.private[http.CanonicalHeaderKey(name)] = true
		}
		h.Authorizer = newAuthorizer(h, r.creds)
		r.known = append(r.known, endpoint{h, h.Scheme + "://" + h.Host + h.Path})
	}
	return r.known, nil
}

// adopt puts our transport around containerd's. It is called while r.mu is held.
//
// HTTP/2 is switched off in transports with a TLS configuration of their own unless
// asked for, and how long a registry may think is for the watch to say.
func (r *registry) adopt(client *http.Client) error {
	if base, ok := client.Transport.(*http.Transport); ok {
		base.ForceAttemptHTTP2 = true
		base.ResponseHeaderTimeout = 0
		r.idle = append(r.idle, base)
		client.Transport = transport{base, r}
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

// usable lists the endpoints that may do what is needed and are not passed over.
func (r *registry) usable(need docker.HostCapabilities, without map[string]bool) ([]endpoint, error) {
	all, err := r.endpoints()
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []endpoint
	for _, e := range all {
		if e.Capabilities.Has(need) && !without[e.key] && !r.shunned[e.key] {
			list = append(list, e)
		}
	}
	return list, nil
}

// The reasons for passing over an endpoint.
const (
	servesWrong = "it served wrong content"
	saysNothing = "it does not answer"
)

// distrust passes over an endpoint for the rest of the pull. It answers false, and does
// nothing, where none would be left.
func (r *registry) distrust(key, reason string) bool {
	left, err := r.usable(docker.HostCapabilityPull, map[string]bool{key: true})
	if err != nil || len(left) == 0 {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shunned[key] = true
	r.counts.failovers.Add(1)
	r.log.Warn("registry endpoint is passed over", "image", r.full, "endpoint", key, "reason", reason)
	return true
}

func (r *registry) shunnedCount() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.shunned)
}

// askWhole has blobs fetched from their begin on from now on, and says whether that is new.
func (r *registry) askWhole() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.whole
	r.whole = true
	return !was
}

// resolver asks one endpoint, and no other.
func (r *registry) resolver(e endpoint) remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{
		Hosts:   func(string) ([]docker.RegistryHost, error) { return []docker.RegistryHost{e.RegistryHost}, nil },
		Headers: http.Header{"User-Agent": {r.agent}},
	})
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
