package image

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Auth is a credential for a registry, as the CRI carries it. What is used is the first
// of: RegistryToken (a bearer token, sent as it is), Username and Password,
// IdentityToken (exchanged for a bearer token), Auth (base64 of "username:password").
type Auth struct {
	Username      string
	Password      string
	Auth          string
	ServerAddress string
	IdentityToken string
	RegistryToken string
}

// key tells credentials apart without keeping them.
func (a *Auth) key() string {
	if a == nil {
		a = &Auth{}
	}
	raw, _ := json.Marshal(a) // strings always marshal
	return digest.FromBytes(raw).String()
}

// basic returns user name and password; a token alone stands where the password is.
func (a *Auth) basic() (username, secret string, err error) {
	switch {
	case a.Username != "":
		return a.Username, a.Password, nil
	case a.IdentityToken != "":
		return "", a.IdentityToken, nil
	case a.Auth == "":
		return "", "", nil
	}
	raw, err := base64.StdEncoding.DecodeString(a.Auth)
	if err != nil {
		return "", "", fmt.Errorf("decode auth: %w: not base64", errdefs.ErrInvalidArgument)
	}
	user, password, ok := strings.Cut(string(raw), ":")
	if !ok {
		return "", "", fmt.Errorf("decode auth: %w: no colon after the user name", errdefs.ErrInvalidArgument)
	}
	return user, strings.TrimRight(password, "\x00"), nil
}

// credentials decides which hosts see a credential: the one its ServerAddress names, or
// else the endpoints that the operator's configuration lists for the registry. A host
// that a registry merely redirects to never does.
type credentials struct {
	auth *Auth

	mu        sync.Mutex
	endpoints map[string]bool
}

// admit adds an endpoint of the registry.
func (c *credentials) admit(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.endpoints == nil {
		c.endpoints = map[string]bool{}
	}
	c.endpoints[host] = true
}

func (c *credentials) covers(host string) bool {
	if c.auth == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.endpoints[host] {
		return false
	}
	return c.auth.ServerAddress == "" || serverHost(c.auth.ServerAddress) == serverHost(host)
}

// forHost has the form that containerd's authorizer asks for.
func (c *credentials) forHost(host string) (username, secret string, err error) {
	if !c.covers(host) {
		return "", "", nil
	}
	return c.auth.basic()
}

// serverHost reduces a server address, which may be a URL, to host and port. The names
// of Docker's hub are one.
func serverHost(address string) string {
	if _, rest, ok := strings.Cut(address, "://"); ok {
		address = rest
	}
	host, _, _ := strings.Cut(address, "/")
	switch host {
	case "docker.io", "index.docker.io", "registry-1.docker.io":
		return "docker.io"
	}
	return host
}

// bearer sends a token that the caller brought, to the hosts it covers.
type bearer struct{ creds *credentials }

func (b bearer) Authorize(_ context.Context, req *http.Request) error {
	if b.creds.covers(req.URL.Host) {
		req.Header.Set("Authorization", "Bearer "+b.creds.auth.RegistryToken)
	}
	return nil
}

func (b bearer) AddResponses(context.Context, []*http.Response) error {
	return fmt.Errorf("registry token refused: %w", docker.ErrInvalidAuthorization)
}
