package image

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
)

// A token server whose answer never ends is not listened to for ever, in whatever form it
// is asked.
func TestEndlessToken(t *testing.T) {
	const most = 64 << 20 // much is in the sockets' buffers when the client goes away
	for name, c := range map[string]struct {
		path string
		auth *Auth
	}{
		"anonymous":  {"/token", nil},
		"OAuth":      {"/token", &Auth{IdentityToken: "identity"}},
		"redirected": {"/moved", nil},
	} {
		t.Run(name, func(t *testing.T) {
			h, k := newHub(t), newKit(t, nil)
			h.push("app", "v1", nil, gzipped("one"))
			var sent atomic.Int64
			var coding atomic.Value
			issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/moved" {
					http.Redirect(w, r, "/token", http.StatusTemporaryRedirect)
					return
				}
				coding.Store(r.Header.Get("Accept-Encoding"))
				fmt.Fprint(w, `{"token":"`)
				for chunk := strings.Repeat("a", 64<<10); sent.Load() < most; sent.Add(int64(len(chunk))) {
					if _, err := fmt.Fprint(w, chunk); err != nil {
						return
					}
				}
			}))
			defer issuer.Close()
			h.guard(`Bearer realm="`+issuer.URL+c.path+`",service="hub"`, "Bearer T")
			_, err := k.Pull(t.Context(), h.host+"/app:v1", c.auth)
			if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "read token") {
				t.Errorf("error = %v, want one about the token's length", err)
			}
			if sent.Load() >= most {
				t.Errorf("%d bytes of a token were read", sent.Load())
			}
			if coding.Load() != "identity" {
				t.Errorf("Accept-Encoding = %q: what is inflated may be larger than what is sent", coding.Load())
			}
		})
	}
}

// A fault of the token server passes as one of the registry does, when the pull begins and
// when its token runs out on the way.
func TestTokenServerFaults(t *testing.T) {
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	reset := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for name, c := range map[string]struct {
		fault  http.HandlerFunc
		strike int64 // the request for a token that fails
		auth   *Auth
	}{
		"503 at first":   {status(503), 1, nil},
		"429 at first":   {status(429), 1, nil},
		"reset at first": {reset, 1, nil},
		"503 of OAuth":   {status(503), 1, &Auth{IdentityToken: "identity"}},
		"503 on the way": {status(503), 2, nil},
		"no fault":       {nil, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h, k := newHub(t), newKit(t, nil)
			l := gzipped("one")
			h.push("app", "v1", nil, l)
			var asked atomic.Int64
			issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := asked.Add(1)
				if n == c.strike {
					c.fault(w, r)
					return
				}
				token := "old"
				if n > max(c.strike, 1) {
					token = "new"
				}
				fmt.Fprintf(w, `{"token":%q,"access_token":%q,"expires_in":300}`, token, token)
			}))
			issuer.Config.ErrorLog = quiet()
			defer issuer.Close()
			h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				got, challenge := r.Header.Get("Authorization"), `Bearer realm="`+issuer.URL+`/token",service="hub"`
				if got == "Bearer new" || got == "Bearer old" && !isBlob(r, l) {
					return false
				}
				if got != "" {
					challenge += `,error="invalid_token"`
				}
				w.Header().Set("WWW-Authenticate", challenge)
				w.WriteHeader(http.StatusUnauthorized)
				return true
			})
			if _, err := k.Pull(t.Context(), h.host+"/app:v1", c.auth); err != nil {
				t.Error(err)
			}
			if n := asked.Load(); n > 4 {
				t.Errorf("%d tokens were asked for", n)
			}
		})
	}
}
