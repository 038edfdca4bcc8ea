package image

import (
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
)

// hosts writes a hosts.toml for a registry and returns the directory.
func hosts(t *testing.T, registry, content string) string {
	t.Helper()
	root := t.TempDir()
	if host, port, ok := strings.Cut(registry, ":"); ok {
		registry = host + "_" + port + "_"
	}
	if err := os.MkdirAll(filepath.Join(root, registry), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, registry, "hosts.toml"), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

// guard wants that Authorization header on every request.
func (h *hub) guard(challenge, want string) {
	h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == want {
			return false
		}
		w.Header().Set("WWW-Authenticate", challenge)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestBasicAuth(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	h.push("app", "v1", nil, gzipped("one"))
	h.guard(`Basic realm="hub"`, basic("me", "secret"))
	ref := h.host + "/app:v1"
	for name, auth := range map[string]*Auth{
		"none":           nil,
		"wrong":          {Username: "me", Password: "guess"},
		"another server": {Username: "me", Password: "secret", ServerAddress: "https://other.example/v1/"},
	} {
		if _, err := k.Pull(t.Context(), ref, auth); !errdefs.IsUnauthorized(err) {
			t.Errorf("%s: error = %v, want unauthenticated", name, err)
		}
		k.wantEmpty(t)
	}
	encoded := base64.StdEncoding.EncodeToString([]byte("me:secret"))
	for name, auth := range map[string]*Auth{
		"name and password": {Username: "me", Password: "secret"},
		"encoded":           {Auth: encoded},
		"with server":       {Auth: encoded, ServerAddress: "http://" + h.host + "/v2/"},
	} {
		if _, err := k.Pull(t.Context(), ref, auth); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := k.Pull(t.Context(), ref, &Auth{Auth: "%"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("malformed auth: error = %v", err)
	}
	if _, err := k.Pull(t.Context(), ref, nil); !errdefs.IsUnauthorized(err) {
		t.Errorf("image is there, no credential: error = %v, want unauthenticated", err)
	}
}

func TestBearerAuth(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	h.push("app", "v1", nil, gzipped("one"), gzipped("two"))
	var tokens atomic.Int64
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		tokens.Add(1)
		ok := r.Form.Get("username") == "me" && r.Form.Get("password") == "secret" ||
			r.Form.Get("refresh_token") == "identity" || r.Header.Get("Authorization") == basic("me", "secret")
		if !ok || r.Form.Get("scope") != "repository:app:pull" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"token":"T","access_token":"T","expires_in":300}`)
	}))
	defer issuer.Close()
	h.guard(`Bearer realm="`+issuer.URL+`/token",service="hub"`, "Bearer T")
	ref := h.host + "/app:v1"
	if _, err := k.Pull(t.Context(), ref, nil); !errdefs.IsUnauthorized(err) {
		t.Errorf("anonymous: error = %v, want unauthenticated", err)
	}
	tokens.Store(0)
	for name, auth := range map[string]*Auth{
		"name and password": {Username: "me", Password: "secret"},
		"identity token":    {IdentityToken: "identity"},
		"name, but a token": {Username: "00000000-0000-0000-0000-000000000000", IdentityToken: "identity"},
		"registry token":    {RegistryToken: "T"},
	} {
		if _, err := k.Pull(t.Context(), ref, auth); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := k.Remove(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	if n := tokens.Load(); n != 3 {
		t.Errorf("%d tokens were asked for, want one for each pull that needs one", n)
	}
}

// A registry that redirects its blobs to a host that asks for a password gets none.
func TestCredentialStaysWithRegistry(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	l := gzipped("one")
	h.push("app", "v1", nil, l)
	var leaked atomic.Bool
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaked.Store(leaked.Load() || r.Header.Get("Authorization") != "")
		w.Header().Set("WWW-Authenticate", `Basic realm="gimme"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer thief.Close()
	h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if isBlob(r, l) {
			http.Redirect(w, r, strings.Replace(thief.URL, "127.0.0.1", "localhost", 1), http.StatusTemporaryRedirect)
		} else if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="hub"`)
			w.WriteHeader(http.StatusUnauthorized)
		} else {
			return false
		}
		return true
	})
	if _, err := k.Pull(t.Context(), h.host+"/app:v1", &Auth{Username: "me", Password: "secret"}); err == nil {
		t.Error("the pull succeeded")
	}
	if leaked.Load() {
		t.Error("the credential was sent to the host of a redirect")
	}
}

// A credential that was given to a registry by HTTPS is not sent to it in the clear.
func TestCredentialStaysEncrypted(t *testing.T) {
	var c credentials
	c.admit("https", "secure.example")
	c.admit("http", "plain.example")
	c.admit("https", "127.0.0.1:5000")
	for url, want := range map[string]bool{
		"https://secure.example": true, "http://secure.example": false, "https://secure.example:8443": false,
		"http://plain.example": true, "https://plain.example": true, "http://127.0.0.1:5000": true, "https://other.example": false,
	} {
		scheme, host, _ := strings.Cut(url, "://")
		if got := c.admitted(scheme, host); got != want {
			t.Errorf("%s: %v", url, got)
		}
	}
}

func TestMirrors(t *testing.T) {
	dead, empty, h := newHub(t), newHub(t), newHub(t)
	dead.Close()
	p := h.push("team/app", "v1", nil, gzipped("one"))
	k := newKit(t, func(o *Options) {
		o.HostsDir = hosts(t, "registry.example", fmt.Sprintf(`
server = "http://127.0.0.1:1"
[host."http://%s"]
  capabilities = ["pull", "resolve"]
[host."http://%s"]
[host."http://%s"]
  [host."http://%s".header]
    X-Who = ["cricket"]
`, dead.host, empty.host, h.host, h.host))
	})
	seen := ""
	h.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		seen = r.Header.Get("X-Who") + " " + r.URL.Query().Get("ns")
		return false
	})
	img := k.mustPull(t, "registry.example/team/app:v1")
	if img.ID != p.id || !slices.Equal(img.RepoTags, []string{"registry.example/team/app:v1"}) {
		t.Errorf("image = %+v, want it under the name that was asked for", img)
	}
	if len(empty.log) == 0 {
		t.Error("the second mirror was passed over")
	}
	if seen != "cricket registry.example" {
		t.Errorf("mirror saw header and name space %q", seen)
	}
}

func TestMirrorThatMustNotResolve(t *testing.T) {
	mirror, h := newHub(t), newHub(t)
	l := gzipped("one")
	mirror.push("app", "v1", nil, gzipped("another"))
	h.push("app", "v1", nil, l)
	mirror.push("app", "", nil, l)
	k := newKit(t, func(o *Options) {
		o.HostsDir = hosts(t, "_default", fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\ncapabilities = [\"pull\"]\n", h.host, mirror.host))
	})
	img := k.mustPull(t, "registry.example/app:v1")
	if !slices.Contains(img.Layers, l.diffID()) {
		t.Error("the tag was resolved by a mirror that may not")
	}
	if got := h.fetched(); len(got) != 0 {
		t.Errorf("blobs %v came from the registry, not from the mirror", got)
	}
}

func TestBrokenHostsFileFailsThePull(t *testing.T) {
	h := newHub(t)
	h.push("app", "v1", nil, gzipped("one"))
	k := newKit(t, func(o *Options) { o.HostsDir = hosts(t, h.host, "server = ") })
	if _, err := k.Pull(t.Context(), h.host+"/app:v1", nil); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "hosts.toml") {
		t.Errorf("error = %v, want one that names the file", err)
	}
}

func TestTLS(t *testing.T) {
	h := newHub(t)
	h.push("app", "v1", nil, gzipped("one"))
	secure := httptest.NewUnstartedServer(h)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // a refused certificate is expected
	secure.StartTLS()
	defer secure.Close()
	if _, err := newKit(t, nil).Pull(t.Context(), strings.TrimPrefix(secure.URL, "https://")+"/app:v1", nil); err != nil {
		t.Errorf("loopback needs no certificate: %v", err)
	}
	for config, ok := range map[string]bool{"": false, "skip_verify = true": true} {
		k := newKit(t, func(o *Options) {
			o.HostsDir = hosts(t, "registry.example", fmt.Sprintf("server = %q\n%s\n", secure.URL, config))
		})
		if _, err := k.Pull(t.Context(), "registry.example/app:v1", nil); (err == nil) != ok {
			t.Errorf("%q: error = %v", config, err)
		}
	}
}
