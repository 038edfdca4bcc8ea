package telemetry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/cri/trace/otlptest"
	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/integration"
)

// collector is an OpenTelemetry Collector. What it has taken it sends on at once, and got is
// what it has sent.
type collector struct {
	harness.Process
	got       *otlptest.Collector
	address   string
	authority *authority // nil without TLS
	t         *testing.T
}

// The sending queue would answer before anything was sent on.
const collectorConfig = `
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: %s
%s
exporters:
  otlp_grpc:
    endpoint: %s
    tls:
      insecure: true
    compression: none
    sending_queue:
      enabled: false
service:
  telemetry:
    metrics:
      level: none
  pipelines:
    traces:
      receivers: [otlp]
      exporters: [otlp_grpc]
`

// startCollector returns when the collector listens. With an authority it does so with TLS.
func startCollector(t *testing.T, a *authority) *collector {
	t.Helper()
	got, behind, stop, err := otlptest.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	c := &collector{got: got, address: freePort(t), authority: a, t: t}
	tls := ""
	if a != nil {
		tls = "        tls:\n          cert_file: " + a.leaf + "\n          key_file: " + a.key
	}
	config := write(t, "collector.yaml", collectorConfig, c.address, tls, behind)
	c.Process = harness.Process{Name: "the collector", Log: filepath.Join(filepath.Dir(config), "log"), Command: func() (*exec.Cmd, error) {
		return exec.Command(integration.Tool("otelcol"), "--config", config), nil
	}}
	c.start()
	return c
}

// start starts the collector, for the first time or again.
func (c *collector) start() {
	c.t.Helper()
	if err := c.Process.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(c.stop)
	integration.Within(c.t, time.Minute, "the collector listens", func() bool {
		if err := c.Alive(); err != nil {
			log, _ := os.ReadFile(c.Log)
			c.t.Fatalf("%v\n%s", err, log)
		}
		conn, err := net.Dial("tcp", c.address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// stop ends the collector. Where it was started before the node, a test wants it gone before
// it looks for what the node has left behind.
func (c *collector) stop() {
	if c.Pid() == 0 {
		return
	}
	if err := c.Kill(); err != nil {
		c.t.Error(err)
	}
	if log, err := os.ReadFile(c.Log); c.t.Failed() {
		c.t.Logf("the collector's log (%v):\n%s", err, log)
	}
}

// signal holds the collector up or lets it go on.
func (c *collector) signal(s unix.Signal) {
	c.t.Helper()
	if err := unix.Kill(c.Pid(), s); err != nil {
		c.t.Fatal(err)
	}
}

// authority signs certificates. What it has signed is for 127.0.0.1.
type authority struct{ certificate, leaf, key string } // files

func newAuthority(t *testing.T) *authority {
	t.Helper()
	template := func(serial int64) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: t.Name()},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		}
	}
	root, leaf := template(1), template(2)
	root.IsCA, root.BasicConstraintsValid, root.KeyUsage = true, true, x509.KeyUsageCertSign
	leaf.IPAddresses, leaf.ExtKeyUsage = []net.IP{net.IPv4(127, 0, 0, 1)}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	rootKey, leafKey := newKey(t), newKey(t)
	sign := func(name string, c *x509.Certificate, key *ecdsa.PrivateKey) string {
		der, err := x509.CreateCertificate(rand.Reader, c, root, &key.PublicKey, rootKey)
		if err != nil {
			t.Fatal(err)
		}
		return write(t, name, "%s", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	der, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{
		certificate: sign("ca.pem", root, rootKey), leaf: sign("leaf.pem", leaf, leafKey),
		key: write(t, "key.pem", "%s", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
