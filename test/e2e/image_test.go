package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/cricket-cri/cricket/test/images"
)

// private serves a copy of busybox as an image that takes user:secret to pull.
func (e *env) private() (registry *images.Registry, address, image string) {
	r := images.NewRegistry()
	r.Before = func(w http.ResponseWriter, req *http.Request) bool {
		if user, password, _ := req.BasicAuth(); user == "user" && password == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	server, address, err := r.Serve("127.0.0.1:0")
	e.ok(err)
	e.t.Cleanup(func() { server.Close() })
	dir := filepath.Join(e.Runtime.Paths.Hosts, address)
	e.ok(os.MkdirAll(dir, 0o755))
	e.ok(os.WriteFile(filepath.Join(dir, "hosts.toml"), fmt.Appendf(nil, "server = \"http://%s\"\n", address), 0o644))
	image = address + "/" + e.ns + ":1"
	e.ok(r.Add(e.t.TempDir(), image, e.busybox()))
	return r, address, image
}

func (e *env) busybox() v1.Image {
	e.t.Helper()
	img, err := e.Images.Image(images.Busybox)
	e.ok(err)
	return img
}

// publish serves busybox by a name of the test's, with another configuration.
func (e *env) publish(name string, config v1.Config) {
	e.t.Helper()
	img, err := mutate.Config(e.busybox(), config)
	e.ok(err)
	e.ok(e.Registry.Add(e.t.TempDir(), name, img))
}

// TestPullSecret: an image that needs credentials is pulled with the pod's secret only.
func TestPullSecret(t *testing.T) {
	onHulls(t, func(e *env) {
		_, address, image := e.private()
		spec := "containers: [{name: app, image: '" + image + "', imagePullPolicy: Always, command: [sleep, '3600']}]\n"
		e.pod("stranger", spec)
		e.waiting("stranger", "ImagePullBackOff", "ErrImagePull")
		e.event("stranger", "Failed", "pull access denied")
		config := fmt.Sprintf(`{"auths": {%q: {"username": "user", "password": "secret"}}}`, address)
		_, err := e.Client.CoreV1().Secrets(e.ns).Create(e.t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "registry"}, Type: corev1.SecretTypeDockerConfigJson,
			StringData: map[string]string{corev1.DockerConfigJsonKey: config},
		}, metav1.CreateOptions{})
		e.ok(err)
		e.pod("friend", spec+"imagePullSecrets: [{name: registry}]\n")
		e.ready("friend")
	})
}

// waiting waits until a pod's container waits for one of the given reasons.
func (e *env) waiting(pod string, reasons ...string) {
	e.t.Helper()
	e.eventually(fmt.Sprintf("%s waits because of %q", pod, reasons), func() error {
		s := container(e.get(pod), "app").State
		for _, r := range reasons {
			if s.Waiting != nil && s.Waiting.Reason == r {
				return nil
			}
		}
		return fmt.Errorf("it is %+v", s)
	})
}

// TestPullPolicy in all its values, by what the registry is asked.
func TestPullPolicy(t *testing.T) {
	onHulls(t, func(e *env) {
		name := "example.com/policy/" + e.ns + ":1"
		pod := func(pod, policy string) {
			e.pod(pod, "containers: [{name: app, image: '"+name+"', imagePullPolicy: "+policy+", command: [sleep, '3600']}]")
		}
		pod("never", "Never")
		e.waiting("never", "ErrImageNeverPull")
		pod("missing", "IfNotPresent")
		e.waiting("missing", "ErrImagePull", "ImagePullBackOff")
		e.event("missing", "Failed", "not found")
		e.ok(e.Registry.Add(e.t.TempDir(), name, e.busybox()))
		asked := func() (n int) {
			for _, r := range e.Registry.Requests() {
				if r.Status == http.StatusOK && strings.HasSuffix(r.Name, "policy/"+e.ns) {
					n++
				}
			}
			return n
		}
		pod("first", "IfNotPresent")
		e.ready("first")
		before := asked()
		if before == 0 {
			e.t.Error("nobody asked for the image")
		}
		pod("second", "IfNotPresent")
		e.ready("second")
		if n := asked(); n != before {
			e.t.Errorf("%d requests for an image that is there", n-before)
		}
		pod("always", "Always")
		e.ready("always")
		if asked() == before {
			e.t.Error("with Always nobody asked for the image")
		}
		e.ready("never") // now it is there
	})
}

// TestShortName: an image without a registry is Docker's, from the mirror of that.
func TestShortName(t *testing.T) {
	onHulls(t, func(e *env) {
		name := "short/" + e.ns + ":1"
		// Of its own: an image has one of the names that it was pulled by.
		e.publish("docker.io/"+name, v1.Config{Labels: map[string]string{"of": e.ns}})
		e.pod("p", "containers: [{name: app, image: '"+name+"', command: [sleep, '3600']}]")
		e.ready("p")
		if s := container(e.get("p"), "app"); s.Image != "docker.io/"+name || !strings.HasPrefix(s.ImageID, "docker.io/short/"+e.ns+"@sha256:") {
			e.t.Errorf("its image is %s, %s", s.Image, s.ImageID)
		}
	})
}
