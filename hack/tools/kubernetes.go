package tools

import (
	"path"
	"strings"
)

const (
	kubernetes = "1.37.2"
	kubeSum    = "h1:A2VDEiObzkYqFTKhSsn0ZEb0RlLEXpHWj93gi2HqEwE="
	stagingSum = "49742db6a4bfc83acabd06d176f8eacb"
	etcdSum    = "136cf7c0a6a2d0e8c109ee2601a98699"
)

// Versions of what a cluster of KubernetesVersion has besides, by their images' tags.
const (
	KubernetesVersion = "v" + kubernetes
	CoreDNSVersion    = "v1.14.6" // what kubeadm of this version installs
	AgnhostVersion    = "2.66.1"
)

// Kubernetes is a program of the Kubernetes project by the directory that it is built from
// (cmd/kubelet, test/images/agnhost). It says v0.0.0-master of itself unless the linker
// tells it better.
func Kubernetes(dir string) Tool {
	var flags []string
	minor := strings.Split(kubernetes, ".")[1]
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, v := range []string{"gitVersion=v" + kubernetes, "gitMajor=1", "gitMinor=" + minor, "gitTreeState=archive"} {
			flags = append(flags, "-X "+pkg+"."+v)
		}
	}
	return Tool{
		Name: path.Base(dir), Module: "k8s.io/kubernetes@v" + kubernetes, Sum: kubeSum, Package: "./" + dir,
		Tags: "selinux,notest,grpcnotrace,providerless", LDFlags: strings.Join(flags, " "),
		Staging: "v" + strings.Replace(kubernetes, "1", "0", 1), StagingSum: stagingSum,
	}
}

// Kubelet is the node's agent, Cricket's client in a cluster.
func Kubelet() Tool { return Kubernetes("cmd/kubelet") }

// Cluster is every program that a cluster of one node is made of.
func Cluster() []Tool {
	var all []Tool
	for _, dir := range []string{
		"cmd/kubelet", "cmd/kube-apiserver", "cmd/kube-controller-manager", "cmd/kube-scheduler", "cmd/kube-proxy",
		"cmd/kubectl", "test/images/agnhost",
	} {
		all = append(all, Kubernetes(dir))
	}
	return append(all, Etcd(), CoreDNS())
}

// Etcd keeps a cluster's objects. It has a release of its own, later than the one that
// Kubernetes is built with.
func Etcd() Tool {
	return Tool{
		Name: "etcd", Module: "go.etcd.io/etcd/server/v3@v3.7.3", Sum: "h1:KcTZ/aEZrOiQe0/kdr7iYYcvyfbEoOwDOacHkz8xwZc=",
		Package: ".", Staging: "v3.7.3", StagingSum: etcdSum,
	}
}

// CoreDNS is a cluster's name server.
func CoreDNS() Tool {
	return Tool{
		Name: "coredns", Module: "github.com/coredns/coredns@" + CoreDNSVersion,
		Sum: "h1:V2g2JdCWJVqYGdX8tlBiK0iQo23Pnt8xs8gHqKyFYs8=", Package: ".",
	}
}
