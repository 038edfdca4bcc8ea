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
	case a.Username != "" && (a.Password != "" || a.IdentityToken == ""):
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

// credentials decides which hosts see which credential. Only endpoints that the
// operator's configuration lists for the registry see one, never a host that a registry
// merely redirects to. What the pull brought comes first, on the host that its
// ServerAddress names or on all of them, then the auth file's entry for the host.
type credentials struct {
	auth *Auth
	file authFile

	mu        sync.Mutex
	endpoints map[string]string // host to scheme
	filed     map[string]*Auth  // by host; nil where the file has none
	bearers   map[string]bool   // hosts that have asked for the file's registry token
}

// admit adds an endpoint of the registry.
func (c *credentials) admit(scheme, host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.endpoints == nil {
		c.endpoints, c.filed, c.bearers = map[string]string{}, map[string]*Auth{}, map[string]bool{}
	}
	c.endpoints[host] = scheme
}

// admitted says whether a URL leads to an endpoint, and not in the clear where the
// configuration wants it encrypted. On loopback there is nobody to overhear.
func (c *credentials) admitted(scheme, host string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	want, ok := c.endpoints[host]
	return ok && (scheme == want || scheme == "https" || docker.IsLocalhost(host))
}

// brought says whether the pull's own credential is for the host.
func (c *credentials) brought(host string) bool {
	return c.auth != nil && (c.auth.ServerAddress == "" || serverHost(c.auth.ServerAddress) == serverHost(host))
}

// find returns the credential for a host, or nil.
func (c *credentials) find(host string) (*Auth, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.endpoints[host]; !ok {
		return nil, nil
	}
	if c.brought(host) {
		return c.auth, nil
	}
	if a, ok := c.filed[host]; ok {
		return a, nil
	}
	a, err := c.file.find(host)
	if err == nil {
		c.filed[host] = a
	}
	return a, err
}

// forHost has the form that containerd's authorizer asks for, when a host wants one.
func (c *credentials) forHost(host string) (username, secret string, err error) {
	a, err := c.find(host)
	if a == nil || err != nil {
		return "", "", err
	}
	return a.basic()
}

// token is the registry token to send to a host, if there is one. The pull's own is
// sent at once, the file's to hosts that have asked.
func (c *credentials) token(host string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.endpoints[host]; !ok {
		return ""
	}
	if c.brought(host) {
		return c.auth.RegistryToken
	}
	if c.bearers[host] {
		return c.filed[host].RegistryToken
	}
	return ""
}

func (c *credentials) useToken(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bearers[host] = true
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

// authorizer is containerd's, which does not know registry tokens, and those. containerd's
// keeps what it got of a token's server for the rest of the pull, a failure as well: after
// one it is made anew.
type authorizer struct {
	creds *credentials
	renew func() docker.Authorizer

	mu   sync.Mutex
	base docker.Authorizer
}

// newAuthorizer makes what containerd's configuration makes for an endpoint.
func newAuthorizer(e docker.RegistryHost, creds *credentials) *authorizer {
	renew := func() docker.Authorizer {
		return docker.NewDockerAuthorizer(docker.WithAuthClient(e.Client), docker.WithAuthCreds(creds.forHost), docker.WithAuthHeader(e.Header))
	}
	return &authorizer{creds: creds, renew: renew, base: renew()}
}

func (a *authorizer) current() docker.Authorizer {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.base
}

// drop replaces an authorizer that failed, once: others may have waited for the same token.
func (a *authorizer) drop(failed docker.Authorizer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.base == failed {
		a.base = a.renew()
	}
}

// maxToken bounds the answer of a token's server, in bytes. Headers of 64 KiB are more
// than most registries take.
const maxToken = 1 << 20

// tokenKey marks the contexts of requests for tokens: their URLs are the registry's choice.
type tokenKey struct{}

func isToken(req *http.Request) bool { return req.Context().Value(tokenKey{}) != nil }

func (a *authorizer) Authorize(ctx context.Context, req *http.Request) error {
	if moved(req) {
		req.Header.Del("Authorization") // net/http takes along the first host's
	}
	if token := a.creds.token(req.URL.Host); token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
		return nil
	}
	base := a.current()
	err := base.Authorize(context.WithValue(ctx, tokenKey{}, true), req)
	if err != nil {
		a.drop(base)
	}
	return err
}

func (a *authorizer) AddResponses(ctx context.Context, responses []*http.Response) error {
	host := responses[len(responses)-1].Request.URL.Host
	if a.creds.token(host) != "" {
		return fmt.Errorf("registry token refused: %w", docker.ErrInvalidAuthorization)
	}
	auth, err := a.creds.find(host)
	if err != nil {
		return err
	}
	if auth != nil && auth.RegistryToken != "" {
		a.creds.useToken(host)
		return nil
	}
	return a.current().AddResponses(ctx, responses)
}
