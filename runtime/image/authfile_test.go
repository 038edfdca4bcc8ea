package image

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// helperIn puts docker-credential-NAME into a directory of PATH. It gets the server on
// its standard input as $server.
func helperIn(t *testing.T, dir, name, script string) {
	t.Helper()
	path := filepath.Join(dir, "docker-credential-"+name)
	text := "#!/bin/sh\n[ \"$1\" = get ] || exit 9\nread -r server || :\n[ -n \"$server\" ] || exit 8\n" + script + "\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestAuthFile pulls with the credentials of a file, in each form that it can have them,
// and with those that the pull brings, which win.
func TestAuthFile(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	helperIn(t, bin, "good", `echo "{\"ServerURL\":\"$server\",\"Username\":\"me\",\"Secret\":\"secret\"}"`)
	helperIn(t, bin, "token", `echo '{"Username":"<token>","Secret":"identity"}'`)
	helperIn(t, bin, "empty", `echo "credentials not found in native keychain"; exit 1`)
	helperIn(t, bin, "broken", `echo oops >&2; exit 3`)
	helperIn(t, bin, "babble", `echo no JSON`)
	h := newHub(t)
	h.push("app", "v1", nil, gzipped("one"))
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		if r.Form.Get("refresh_token") != "identity" && (r.Form.Get("username") != "me" || r.Form.Get("password") != "secret") {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"access_token":"T","token":"T","expires_in":300}`)
	}))
	defer issuer.Close()
	h.guard(`Bearer realm="`+issuer.URL+`/token",service="hub"`, "Bearer T")
	encoded := base64.StdEncoding.EncodeToString([]byte("me:secret"))
	wrong := base64.StdEncoding.EncodeToString([]byte("me:guess"))
	for name, c := range map[string]struct {
		file string
		auth *Auth
		want func(error) bool // nil: the pull succeeds
		text string
	}{
		"auth":                     {`{"auths":{"HOST":{"auth":"` + encoded + `"}}}`, nil, nil, ""},
		"key is a URL":             {`{"auths":{"https://HOST/v1/":{"auth":"` + encoded + `"}}}`, nil, nil, ""},
		"name and password":        {`{"auths":{"HOST":{"username":"me","password":"secret"}}}`, nil, nil, ""},
		"identity token":           {`{"auths":{"HOST":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("0000:")) + `","identitytoken":"identity"}}}`, nil, nil, ""},
		"registry token":           {`{"auths":{"HOST":{"registrytoken":"T"}}}`, nil, nil, ""},
		"wrong registry token":     {`{"auths":{"HOST":{"registrytoken":"S"}}}`, nil, errdefs.IsUnauthorized, ""},
		"another server's":         {`{"auths":{"other.example":{"auth":"` + encoded + `"}}}`, nil, errdefs.IsUnauthorized, ""},
		"wrong":                    {`{"auths":{"HOST":{"auth":"` + wrong + `"}}}`, nil, errdefs.IsUnauthorized, ""},
		"helper":                   {`{"credHelpers":{"HOST":"good"},"auths":{"HOST":{"auth":"` + wrong + `"}}}`, nil, nil, ""},
		"helper with token":        {`{"credHelpers":{"HOST":"token"}}`, nil, nil, ""},
		"another server's helper":  {`{"credHelpers":{"other.example":"good"}}`, nil, errdefs.IsUnauthorized, ""},
		"store":                    {`{"credsStore":"good"}`, nil, nil, ""},
		"store that has none":      {`{"credsStore":"empty","auths":{"HOST":{"auth":"` + encoded + `"}}}`, nil, nil, ""},
		"helper that has none":     {`{"credHelpers":{"HOST":"empty"}}`, nil, errdefs.IsUnauthorized, ""},
		"broken helper":            {`{"credHelpers":{"HOST":"broken"}}`, nil, errdefs.IsFailedPrecondition, "oops"},
		"helper that babbles":      {`{"credHelpers":{"HOST":"babble"}}`, nil, errdefs.IsFailedPrecondition, "docker-credential-babble"},
		"helper that is not there": {`{"credHelpers":{"HOST":"absent"}}`, nil, errdefs.IsFailedPrecondition, "docker-credential-absent"},
		"helper that is a path":    {`{"credHelpers":{"HOST":"/../../bin/true"}}`, nil, errdefs.IsFailedPrecondition, "cannot name a credential helper"},
		"no JSON":                  {`{"auths":{"HOST":{"auth":"` + encoded + `"}`, nil, errdefs.IsFailedPrecondition, "FILE"},
		"the pull's own wins":      {`{"auths":{"HOST":{"auth":"` + wrong + `"}}}`, &Auth{Username: "me", Password: "secret"}, nil, ""},
		"the pull's own is wrong":  {`{"auths":{"HOST":{"auth":"` + encoded + `"}}}`, &Auth{Username: "me", Password: "guess"}, errdefs.IsUnauthorized, ""},
		"the pull's is another's":  {`{"auths":{"HOST":{"auth":"` + encoded + `"}}}`, &Auth{Username: "me", Password: "guess", ServerAddress: "other.example"}, nil, ""},
		"not needed":               {`no JSON`, &Auth{RegistryToken: "T"}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.json")
			if err := os.WriteFile(file, []byte(strings.ReplaceAll(c.file, "HOST", h.host)), 0o600); err != nil {
				t.Fatal(err)
			}
			k := newKit(t, func(o *Options) { o.AuthFile = file })
			_, err := k.Pull(t.Context(), h.host+"/app:v1", c.auth)
			if c.want == nil && err != nil || c.want != nil && !c.want(err) {
				t.Fatalf("error = %v", err)
			}
			if c.text != "" && !strings.Contains(err.Error(), strings.ReplaceAll(c.text, "FILE", file)) {
				t.Errorf("error = %v, want %q in it", err, c.text)
			}
			if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), encoded)) {
				t.Errorf("the error shows a credential: %v", err)
			}
		})
	}
	k := newKit(t, func(o *Options) { o.AuthFile = filepath.Join(bin, "absent.json") })
	if _, err := k.Pull(t.Context(), h.host+"/app:v1", nil); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "absent.json") {
		t.Errorf("no file: error = %v", err)
	}
}

// A helper that hangs ends with the pull that waits for it.
func TestHangingHelperEndsWithThePull(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	mark := filepath.Join(bin, "started")
	helperIn(t, bin, "hang", "touch "+mark+"; sleep 600")
	h := newHub(t)
	h.push("app", "v1", nil, gzipped("one"))
	h.guard(`Basic realm="hub"`, basic("me", "secret"))
	file := filepath.Join(bin, "config.json")
	if err := os.WriteFile(file, []byte(`{"credsStore":"hang"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	k := newKit(t, func(o *Options) { o.AuthFile = file })
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for range 6000 {
			if _, err := os.Stat(mark); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
	}()
	begin := time.Now()
	if _, err := k.Pull(ctx, h.host+"/app:v1", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want the caller's", err)
	}
	if took := time.Since(begin); took > 5*time.Minute {
		t.Errorf("it took %s", took)
	}
}

// Each endpoint gets the file's credential for itself, and Docker's hub goes by all of
// its names.
func TestAuthFileOfMirrors(t *testing.T) {
	mirror, own := newHub(t), newHub(t)
	own.push("app", "v1", nil, gzipped("one"))
	var seen [2]atomic.Value
	for i, h := range []*hub{mirror, own} {
		h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
			if got := r.Header.Get("Authorization"); got != "" {
				seen[i].Store(got)
				return false
			}
			w.Header().Set("WWW-Authenticate", `Basic realm="hub"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		})
	}
	file := filepath.Join(t.TempDir(), "config.json")
	text := fmt.Sprintf(`{"auths":{%q:{"username":"m","password":"1"},%q:{"username":"o","password":"2"}}}`, mirror.host, own.host)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	k := mirrored(t, func(o *Options) { o.AuthFile = file }, mirror.URL, own.URL)
	k.mustPull(t, "registry.example/app:v1")
	if a, b := seen[0].Load(), seen[1].Load(); a != basic("m", "1") || b != basic("o", "2") {
		t.Errorf("the mirror saw %v, the registry %v", a, b)
	}
	for _, key := range []string{"https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"} {
		os.WriteFile(file, []byte(fmt.Sprintf(`{"auths":{%q:{"username":"d","password":"3"}}}`, key)), 0o600)
		if a, err := (authFile{t.Context(), file}).find("registry-1.docker.io"); err != nil || a == nil || a.Username != "d" {
			t.Errorf("%s: %+v, %v", key, a, err)
		}
	}
}
