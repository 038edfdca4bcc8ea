package cni

import (
	"fmt"
	"math"
	"math/big"
	"strings"

	"github.com/containerd/errdefs"
)

// Pod is what the plugins are told of a pod.
type Pod struct {
	// ID is the sandbox, NetNS the path of its network namespace.
	ID, NetNS string
	// Name, Namespace and UID are the pod's in Kubernetes.
	Name, Namespace, UID string
	// Annotations may hold bandwidth limits.
	Annotations map[string]string
	Ports       []Port
	DNS         *DNS
	// CgroupPath is the pod's cgroup, relative to the hierarchy's root.
	CgroupPath string
}

// Port is a port of the pod that is shown on the host.
type Port struct {
	HostPort      int32  `json:"hostPort"`
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol"` // tcp, udp, sctp
	HostIP        string `json:"hostIP,omitempty"`
}

// DNS is resolver configuration for plugins that have the capability.
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// The annotations with which Kubernetes limits the bandwidth of a pod, in bits a second.
const (
	ingressBandwidth = "kubernetes.io/ingress-bandwidth"
	egressBandwidth  = "kubernetes.io/egress-bandwidth"
)

// Kubernetes accepts from 1 kbit/s to 1 Pbit/s.
const minBandwidth, maxBandwidth = 1_000, 1_000_000_000_000_000

type bandwidth struct {
	IngressRate  uint64 `json:"ingressRate,omitempty"`
	IngressBurst uint64 `json:"ingressBurst,omitempty"`
	EgressRate   uint64 `json:"egressRate,omitempty"`
	EgressBurst  uint64 `json:"egressBurst,omitempty"`
}

func (p Pod) args() [][2]string {
	return [][2]string{
		{"IgnoreUnknown", "1"},
		{"K8S_POD_NAMESPACE", p.Namespace},
		{"K8S_POD_NAME", p.Name},
		{"K8S_POD_INFRA_CONTAINER_ID", p.ID},
		{"K8S_POD_UID", p.UID},
	}
}

// capabilities are the arguments for plugins that declare the capability; libcni
// leaves the others out.
func (p Pod) capabilities() (map[string]any, error) {
	all := map[string]any{}
	var ports []Port
	for _, port := range p.Ports {
		if port.HostPort > 0 {
			ports = append(ports, port)
		}
	}
	if len(ports) > 0 {
		all["portMappings"] = ports
	}
	limits, err := bandwidthOf(p.Annotations)
	if err != nil {
		return nil, err
	}
	if limits != (bandwidth{}) {
		all["bandwidth"] = limits
	}
	if p.DNS != nil {
		all["dns"] = *p.DNS
	}
	if p.CgroupPath != "" {
		all["cgroupPath"] = p.CgroupPath
	}
	return all, nil
}

func bandwidthOf(annotations map[string]string) (b bandwidth, err error) {
	if text, ok := annotations[ingressBandwidth]; ok {
		if b.IngressRate, err = bits(ingressBandwidth, text); err != nil {
			return bandwidth{}, err
		}
		b.IngressBurst = math.MaxUint32
	}
	if text, ok := annotations[egressBandwidth]; ok {
		if b.EgressRate, err = bits(egressBandwidth, text); err != nil {
			return bandwidth{}, err
		}
		b.EgressBurst = math.MaxUint32
	}
	return b, nil
}

func bits(annotation, text string) (uint64, error) {
	n, ok := quantity(text)
	if !ok || n < minBandwidth || n > maxBandwidth {
		return 0, fmt.Errorf("annotation %q: %q is not a bandwidth from 1k to 1P: %w", annotation, text, errdefs.ErrInvalidArgument)
	}
	return n, nil
}

// quantity reads a Kubernetes quantity as a whole number, rounded up.
func quantity(text string) (uint64, bool) {
	digits := strings.TrimRight(text, "numkMGTPEi")
	scale, ok := map[string]*big.Rat{
		"n": big.NewRat(1, 1e9), "u": big.NewRat(1, 1e6), "m": big.NewRat(1, 1e3), "": big.NewRat(1, 1),
		"k": big.NewRat(1e3, 1), "M": big.NewRat(1e6, 1), "G": big.NewRat(1e9, 1),
		"T": big.NewRat(1e12, 1), "P": big.NewRat(1e15, 1), "E": big.NewRat(1e18, 1),
		"Ki": big.NewRat(1<<10, 1), "Mi": big.NewRat(1<<20, 1), "Gi": big.NewRat(1<<30, 1),
		"Ti": big.NewRat(1<<40, 1), "Pi": big.NewRat(1<<50, 1), "Ei": big.NewRat(1<<60, 1),
	}[text[len(digits):]]
	// Long numbers are refused before big.Rat expands their exponent.
	if !ok || digits == "" || len(digits) > 20 || strings.ContainsAny(digits, "/_xXpP") {
		return 0, false
	}
	if _, exponent, found := strings.Cut(strings.ToLower(digits), "e"); found && len(strings.TrimLeft(exponent, "+-0")) > 2 {
		return 0, false
	}
	value, ok := new(big.Rat).SetString(digits)
	if !ok || value.Sign() < 0 {
		return 0, false
	}
	value.Mul(value, scale)
	whole, rest := new(big.Int).QuoRem(value.Num(), value.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		whole.Add(whole, big.NewInt(1))
	}
	return whole.Uint64(), whole.IsUint64()
}
