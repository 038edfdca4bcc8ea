package image

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// quiet is for servers whose refusals are expected.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// authority signs certificates, for registry.example among others.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key, _ = a.sign("ca", nil)
	return a
}

// sign makes name.crt and name.key in the authority's directory.
func (a *authority) sign(name string, hosts []string) (*x509.Certificate, *ecdsa.PrivateKey, tls.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: hosts,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	crt := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	raw := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	for file, content := range map[string][]byte{name + ".crt": crt, name + ".key": raw} {
		if err := os.WriteFile(filepath.Join(a.dir, file), content, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	cert, _ := x509.ParseCertificate(der)
	pair, err := tls.X509KeyPair(crt, raw)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key, pair
}

// secure serves a hub by TLS with a certificate of the authority's, and HTTP/2; wanted
// certificates of clients are the authority's.
func (a *authority) secure(h http.Handler, clients tls.ClientAuthType) *httptest.Server {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	_, _, pair := a.sign("server", []string{"registry.example"})
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: clients, ClientCAs: pool}
	s.Config.ErrorLog = quiet()
	s.StartTLS()
	a.t.Cleanup(s.Close)
	return s
}

// TestCertificates has a registry with an authority of its own that wants certificates
// of its clients, and two mirrors with others: each endpoint has its own.
func TestCertificates(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	a.sign("client", nil)
	stranger.sign("client", nil)
	h := newHub(t)
	h.push("app", "v1", nil, gzipped("one"), gzipped("two"))
	s := a.secure(h, tls.RequireAndVerifyClientCert)
	both, err := os.ReadFile(filepath.Join(a.dir, "client.crt"))
	if err != nil {
		t.Fatal(err)
	}
	key, _ := os.ReadFile(filepath.Join(a.dir, "client.key"))
	os.WriteFile(filepath.Join(a.dir, "both.pem"), append(both, key...), 0o600)
	ca := fmt.Sprintf("ca = %q\n", a.dir+"/ca.crt")
	client := fmt.Sprintf("client = [[%q, %q]]\n", a.dir+"/client.crt", a.dir+"/client.key")
	for name, c := range map[string]struct {
		config string
		ok     bool
	}{
		"both":              {ca + client, true},
		"client in one":     {ca + fmt.Sprintf("client = %q\n", a.dir+"/both.pem"), true},
		"list of CAs":       {fmt.Sprintf("ca = [%q, %q]\n", stranger.dir+"/ca.crt", a.dir+"/ca.crt") + client, true},
		"no CA":             {client, false},
		"another CA":        {fmt.Sprintf("ca = %q\n", stranger.dir+"/ca.crt") + client, false},
		"no client":         {ca, false},
		"a stranger":        {ca + fmt.Sprintf("client = [[%q, %q]]\n", stranger.dir+"/client.crt", stranger.dir+"/client.key"), false},
		"missing CA file":   {"ca = \"/nonexistent.crt\"\n" + client, false},
		"relative, in dir":  {"ca = \"ca.crt\"\nclient = [[\"client.crt\", \"client.key\"]]\n", true},
		"mirror's own only": {fmt.Sprintf("[host.\"https://127.0.0.1:1\"]\n%s%s", ca, client), false},
	} {
		t.Run(name, func(t *testing.T) {
			root := hosts(t, "registry.example", fmt.Sprintf("server = %q\n%s", s.URL, c.config))
			for _, file := range []string{"ca.crt", "client.crt", "client.key"} {
				raw, _ := os.ReadFile(filepath.Join(a.dir, file))
				os.WriteFile(filepath.Join(root, "registry.example", file), raw, 0o600)
			}
			k := newKit(t, func(o *Options) { o.HostsDir = root })
			if _, err := k.Pull(t.Context(), "registry.example/app:v1", nil); (err == nil) != c.ok {
				t.Errorf("error = %v, want success %v", err, c.ok)
			}
		})
	}
}

// TestHTTP2 pulls over one connection with a registry that offers HTTP/2.
func TestHTTP2(t *testing.T) {
	a, h := newAuthority(t), newHub(t)
	h.push("app", "v1", nil, gzipped("one"), gzipped("two"), gzipped(noise(1<<20)))
	var mu sync.Mutex
	seen := map[string]bool{}
	s := a.secure(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen[r.Proto+" "+r.RemoteAddr] = true
		mu.Unlock()
		h.ServeHTTP(w, r)
	}), tls.NoClientCert)
	k := newKit(t, func(o *Options) {
		o.HostsDir = hosts(t, "registry.example", fmt.Sprintf("server = %q\nca = %q\n", s.URL, a.dir+"/ca.crt"))
	})
	k.mustPull(t, "registry.example/app:v1")
	mu.Lock()
	defer mu.Unlock()
	for who := range seen {
		if len(seen) != 1 || !strings.HasPrefix(who, "HTTP/2.0 ") {
			t.Errorf("requests came by %v, want one connection with HTTP/2", seen)
		}
	}
}

// TestProxyFromEnvironment pulls through a proxy, plainly and by CONNECT, and past it. The
// environment counts when a process asks for the first time, so each pull is in one of
// its own.
func TestProxyFromEnvironment(t *testing.T) {
	if root := os.Getenv("IMAGE_TEST_HOSTS"); root != "" {
		pullWithHosts(t, root)
		return
	}
	a, h := newAuthority(t), newHub(t)
	h.push("app", "v1", nil, gzipped("one"))
	s := a.secure(h, tls.NoClientCert)
	var mu sync.Mutex
	var seen []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.Method+" "+r.Host)
		mu.Unlock()
		if r.Method == http.MethodConnect {
			tunnel(w, s.Listener.Addr().String())
			return
		}
		h.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	for name, c := range map[string]struct {
		env  string
		url  string
		ok   bool
		want string // what the proxy saw first
	}{
		"http":                 {"HTTP_PROXY=" + proxy.URL, "http://registry.example", true, "HEAD registry.example"},
		"https":                {"HTTPS_PROXY=" + proxy.URL, "https://registry.example", true, "CONNECT registry.example:443"},
		"https, not for http":  {"HTTPS_PROXY=" + proxy.URL, "http://registry.example", false, ""},
		"NO_PROXY":             {"HTTPS_PROXY=" + proxy.URL + " NO_PROXY=.other,registry.example", "https://registry.example", false, ""},
		"NO_PROXY for another": {"HTTPS_PROXY=" + proxy.URL + " NO_PROXY=other.example", "https://registry.example", true, "CONNECT registry.example:443"},
	} {
		t.Run(name, func(t *testing.T) {
			mu.Lock()
			seen = nil
			mu.Unlock()
			root := hosts(t, "registry.example", fmt.Sprintf("server = %q\nca = %q\ndial_timeout = \"5s\"\n", c.url, a.dir+"/ca.crt"))
			if strings.HasPrefix(c.url, "http:") {
				root = hosts(t, "registry.example", fmt.Sprintf("server = %q\n", c.url))
			}
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProxyFromEnvironment$")
			cmd.Env = append(strings.Split(c.env, " "), "IMAGE_TEST_HOSTS="+root, "PATH="+os.Getenv("PATH"), "TMPDIR="+t.TempDir())
			out, err := cmd.CombinedOutput()
			if strings.Contains(string(out), "pulled") != c.ok {
				t.Errorf("%v: %s", err, out)
			}
			mu.Lock()
			defer mu.Unlock()
			if first := strings.Join(seen[:min(1, len(seen))], ""); first != c.want {
				t.Errorf("the proxy saw %q, want %q first", seen, c.want)
			}
		})
	}
}

// pullWithHosts is what TestProxyFromEnvironment runs in other processes.
func pullWithHosts(t *testing.T, root string) {
	k := newKit(t, func(o *Options) { o.HostsDir = root })
	if _, err := k.Pull(t.Context(), "registry.example/app:v1", nil); err != nil {
		t.Fatal(err)
	}
	fmt.Println("pulled")
}

// tunnel connects a client of a proxy with a server.
func tunnel(w http.ResponseWriter, address string) {
	to, err := net.Dial("tcp", address)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer to.Close()
	from, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer from.Close()
	fmt.Fprint(from, "HTTP/1.1 200 OK\r\n\r\n")
	done := make(chan struct{})
	go func() { defer close(done); io.Copy(to, from); to.Close() }()
	io.Copy(from, to)
	from.Close()
	<-done
}
