package cluster

import (
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1"
)

// APIAddress is the API server's in the private node.
const APIAddress = "127.0.0.1:" + apiPort

// The API server for the node's programs, and etcd.
const (
	apiPort = "6443"
	apiURL  = "https://" + APIAddress
	etcdURL = "http://127.0.0.1:2379"
)

// Identities of the cluster's clients; groups and names are Kubernetes' own.
const masters = "system:masters"

func (c *Cluster) makeCertificates(context.Context) (err error) {
	if c.pki, err = newPKI(filepath.Join(c.dir, "pki")); err != nil {
		return err
	}
	names := []string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		"localhost", "127.0.0.1", nodeIP, apiIP,
	}
	errs := []error{
		c.pki.signer(),
		c.pki.issue("apiserver", pkix.Name{CommonName: "kube-apiserver"}, names...),
		c.pki.issue("admin", pkix.Name{CommonName: "admin", Organization: []string{masters}}),
		c.pki.issue("kubelet-client", pkix.Name{CommonName: "kube-apiserver-kubelet-client", Organization: []string{masters}}),
		c.pki.issue("front-proxy", pkix.Name{CommonName: "front-proxy-client"}),
		c.pki.issue("kube-controller-manager", pkix.Name{CommonName: "system:kube-controller-manager"}),
		c.pki.issue("kube-scheduler", pkix.Name{CommonName: "system:kube-scheduler"}),
		c.pki.issue("kube-proxy", pkix.Name{CommonName: "system:kube-proxy"}),
		c.pki.issue("kubelet", pkix.Name{CommonName: "system:node:" + NodeName, Organization: []string{"system:nodes"}}, NodeName, nodeIP),
	}
	for _, name := range []string{"admin", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"} {
		errs = append(errs, c.pki.kubeconfig(name, c.kubeconfig(name), apiURL))
	}
	return errors.Join(errs...)
}

func (c *Cluster) kubeconfig(name string) string { return filepath.Join(c.dir, name+".kubeconfig") }

// startEtcd keeps a cluster's objects without waiting for the disk: they are as
// short-lived as the node.
func (c *Cluster) startEtcd(ctx context.Context) error {
	err := c.startControl("etcd", "--data-dir", filepath.Join(c.dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", etcdURL, "--advertise-client-urls", etcdURL,
		"--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "warn")
	if err != nil {
		return err
	}
	return c.until(ctx, time.Minute, func(ctx context.Context) error { return fetch(ctx, etcdURL+"/health") })
}

func fetch(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("%s: %s: %s", url, resp.Status, text)
	}
	return nil
}

func (c *Cluster) startAPIServer(ctx context.Context) error {
	f := c.pki.file
	err := c.startControl("kube-apiserver", "--etcd-servers", etcdURL, "--secure-port", apiPort, "--advertise-address", nodeIP,
		"--tls-cert-file", f("apiserver.crt"), "--tls-private-key-file", f("apiserver.key"), "--client-ca-file", f("ca.crt"),
		"--service-account-key-file", f("sa.pub"), "--service-account-signing-key-file", f("sa.key"),
		"--service-account-issuer", "https://kubernetes.default.svc.cluster.local", "--service-cluster-ip-range", serviceCIDR,
		"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction", "--allow-privileged=true",
		// What the suite tests and this version does not have on by itself.
		"--feature-gates", "ContainerStopSignals=true",
		"--kubelet-client-certificate", f("kubelet-client.crt"), "--kubelet-client-key", f("kubelet-client.key"),
		"--kubelet-certificate-authority", f("ca.crt"), "--kubelet-preferred-address-types", "InternalIP",
		"--requestheader-client-ca-file", f("ca.crt"), "--requestheader-allowed-names", "front-proxy-client",
		"--requestheader-username-headers", "X-Remote-User", "--requestheader-group-headers", "X-Remote-Group",
		"--requestheader-extra-headers-prefix", "X-Remote-Extra-",
		"--proxy-client-cert-file", f("front-proxy.crt"), "--proxy-client-key-file", f("front-proxy.key"))
	if err != nil {
		return err
	}
	if err := c.client(); err != nil {
		return err
	}
	return c.until(ctx, 3*time.Minute, func(ctx context.Context) error {
		_, err := c.Client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	})
}

func (c *Cluster) startControllers(context.Context) error {
	f := c.pki.file
	return errors.Join(
		c.startControl("kube-controller-manager", "--kubeconfig", c.kubeconfig("kube-controller-manager"),
			"--root-ca-file", f("ca.crt"), "--client-ca-file", f("ca.crt"), "--service-account-private-key-file", f("sa.key"),
			"--cluster-signing-cert-file", f("ca.crt"), "--cluster-signing-key-file", f("ca.key"),
			"--use-service-account-credentials", "--leader-elect=false", "--allocate-node-cidrs=false"),
		c.startControl("kube-scheduler", "--kubeconfig", c.kubeconfig("kube-scheduler"), "--leader-elect=false"))
}

// accountMade waits for what every pod needs.
func (c *Cluster) accountMade(ctx context.Context) error {
	return c.until(ctx, time.Minute, func(ctx context.Context) error {
		_, err := c.Client.CoreV1().ServiceAccounts("default").Get(ctx, "default", v1.GetOptions{})
		return err
	})
}
