package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker-credential-helpers/client"
	helpers "github.com/docker/docker-credential-helpers/credentials"
)

// authFile is a file in the format of Docker's config.json
// (https://docs.docker.com/reference/cli/docker/login/): auths by server, credHelpers by
// server, and credsStore for all others. It is read when a registry asks for a credential.
type authFile struct {
	ctx  context.Context // of the pull: it ends a helper, too
	path string          // empty for none
}

type authConfig struct {
	Auths map[string]struct {
		Auth          string `json:"auth"`
		Username      string `json:"username"`
		Password      string `json:"password"`
		IdentityToken string `json:"identitytoken"`
		RegistryToken string `json:"registrytoken"`
	} `json:"auths"`
	Helpers map[string]string `json:"credHelpers"`
	Store   string            `json:"credsStore"`
}

// maxAuthFile is more than any node has registries for.
const maxAuthFile = 4 << 20

// find returns the credential for a host, or nil if the file has none. What is wrong
// with the file or a helper is ErrFailedPrecondition.
func (f authFile) find(host string) (*Auth, error) {
	if f.path == "" {
		return nil, nil
	}
	c, err := f.read()
	if err != nil {
		return nil, fmt.Errorf("read auth file %s: %w: %w", f.path, errdefs.ErrFailedPrecondition, err)
	}
	for _, server := range aliases(host) {
		for key, helper := range c.Helpers {
			if key == server || serverHost(key) == server {
				return f.ask(helper, key)
			}
		}
	}
	if c.Store != "" {
		if a, err := f.ask(c.Store, aliases(host)[0]); a != nil || err != nil {
			return a, err
		}
	}
	for key, e := range c.Auths {
		if serverHost(key) == serverHost(host) {
			return &Auth{Auth: e.Auth, Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}, nil
		}
	}
	return nil, nil
}

// aliases are the names that a host goes by, the one that helpers know it by first.
func aliases(host string) []string {
	if h := serverHost(host); h != "docker.io" {
		return []string{h}
	}
	return []string{"https://index.docker.io/v1/", "docker.io"}
}

func (f authFile) read() (c authConfig, err error) {
	file, err := os.Open(f.path)
	if err != nil {
		return c, err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxAuthFile))
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		// Not wrapped: it could show a piece of the file.
		return c, errors.New("it is not JSON of the form of Docker's config.json")
	}
	return c, nil
}

// helperTime is how long a credential helper may take. Those of clouds ask a metadata
// service and a token service.
const helperTime = time.Minute

var helperName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// ask runs docker-credential-NAME, which is looked for in PATH, and returns nil if it
// knows no credential.
func (f authFile) ask(name, server string) (*Auth, error) {
	if !helperName.MatchString(name) {
		return nil, fmt.Errorf("read auth file %s: %w: %q cannot name a credential helper", f.path, errdefs.ErrFailedPrecondition, name)
	}
	ctx, cancel := context.WithTimeout(f.ctx, helperTime)
	defer cancel()
	got, err := client.Get(func(args ...string) client.Program {
		cmd := exec.CommandContext(ctx, "docker-credential-"+name, args...)
		cmd.WaitDelay = time.Second
		return &helper{cmd: cmd}
	}, server)
	switch {
	case helpers.IsErrCredentialsNotFound(err):
		return nil, nil
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("run docker-credential-%s: %w: %w", name, errdefs.ErrUnavailable, ctx.Err())
	case err != nil:
		return nil, fmt.Errorf("run docker-credential-%s: %w: %w", name, errdefs.ErrFailedPrecondition, err)
	case got.Username == "<token>":
		return &Auth{IdentityToken: got.Secret}, nil
	}
	return &Auth{Username: got.Username, Password: got.Secret}, nil
}

// helper is one run of a credential helper. Its standard error is part of the error, as
// it is of no use anywhere else.
type helper struct{ cmd *exec.Cmd }

func (h *helper) Input(in io.Reader) { h.cmd.Stdin = in }

func (h *helper) Output() ([]byte, error) {
	var stderr bytes.Buffer
	h.cmd.Stderr = &stderr
	out, err := h.cmd.Output()
	if text := strings.TrimSpace(stderr.String()); err != nil && text != "" {
		err = fmt.Errorf("%w: %.200s", err, text)
	}
	return out, err
}
