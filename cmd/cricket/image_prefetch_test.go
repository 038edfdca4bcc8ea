package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// guarded is a registry with the image app:v1 for those who have the credential.
func guarded(t *testing.T, credential string) (host string) {
	t.Helper()
	layer := oneFile("one", "content")
	config := fmt.Appendf(nil, `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%q]}}`, digest.FromBytes(layer))
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`,
		digest.FromBytes(config), len(config), digest.FromBytes(layer), len(layer))
	serve := map[string][]byte{"/v2/app/manifests/v1": manifest, "/v2/app/manifests/" + digest.FromBytes(manifest).String(): manifest}
	for _, blob := range [][]byte{layer, config} {
		serve["/v2/app/blobs/"+digest.FromBytes(blob).String()] = blob
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := serve[r.URL.Path]
		switch {
		case r.Header.Get("Authorization") != "Basic "+credential:
			w.Header().Set("WWW-Authenticate", `Basic realm="guarded"`)
			w.WriteHeader(http.StatusUnauthorized)
		case !ok:
			http.NotFound(w, r)
		default:
			if strings.Contains(r.URL.Path, "/manifests/") {
				w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			}
			w.Write(body)
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// Without a daemon, the store is opened as the daemon would: credentials and bounds are
// the configuration's.
func TestPrefetchWithoutDaemonGoesByTheConfiguration(t *testing.T) {
	credential := base64.StdEncoding.EncodeToString([]byte("me:secret"))
	host := guarded(t, credential)
	p := newPlace(t)
	dir := t.TempDir()
	auth, _ := json.Marshal(map[string]any{"auths": map[string]any{host: map[string]string{"auth": credential}}})
	authFile, conf := filepath.Join(dir, "auth.json"), filepath.Join(dir, "config.toml")
	for path, text := range map[string]string{authFile: string(auth), conf: fmt.Sprintf("[images]\nauth_file = %q\n", authFile)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.cricket(t, "image prefetch", host+"/app:v1"); err == nil {
		t.Error("prefetch without the credential: no error")
	}
	if _, err := p.cricket(t, "image prefetch", "--config", conf, host+"/app:v1"); err != nil {
		t.Errorf("prefetch: %v", err)
	}
	if out, err := p.cricket(t, "image ls"); err != nil || !strings.Contains(out, host+"/app:v1") {
		t.Errorf("ls: %q, %v", out, err)
	}
}
