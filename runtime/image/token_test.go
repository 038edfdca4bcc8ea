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
