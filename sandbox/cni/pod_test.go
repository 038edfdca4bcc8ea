package cni

import (
	"encoding/json"
	"net/netip"
	"slices"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
)

func TestQuantity(t *testing.T) {
	for _, c := range []struct {
		text string
		want uint64
		ok   bool
	}{
		{"1000", 1000, true},
		{"10M", 10_000_000, true},
		{"1Mi", 1 << 20, true},
		{"1.5k", 1500, true},
		{"1500m", 2, true},
		{"1e6", 1_000_000, true},
		{"2E", 2e18, true},
		{"", 0, false},
		{"M", 0, false},
		{"-1", 0, false},
		{"1Q", 0, false},
		{"1/2", 0, false},
		{"0x10", 0, false},
		{"1e999999999", 0, false},
		{"99E", 0, false},
		{"1 M", 0, false},
	} {
		if got, ok := quantity(c.text); ok != c.ok || ok && got != c.want {
			t.Errorf("%q: got %d %v, want %d %v", c.text, got, ok, c.want, c.ok)
		}
	}
}

func TestCapabilities(t *testing.T) {
	p := Pod{
		Ports:       []Port{{HostPort: 80, ContainerPort: 8080, Protocol: "tcp"}, {ContainerPort: 1, Protocol: "udp"}},
		Annotations: map[string]string{ingressBandwidth: "1M"},
		DNS:         &DNS{Servers: []string{"10.0.0.1"}},
		CgroupPath:  "/pods/x",
	}
	all, err := p.capabilities()
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(all)
	want := `{"bandwidth":{"ingressRate":1000000,"ingressBurst":4294967295},"cgroupPath":"/pods/x",` +
		`"dns":{"servers":["10.0.0.1"]},"portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"tcp"}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	p.Annotations[egressBandwidth] = "10"
	if _, err := p.capabilities(); err == nil {
		t.Error("a bandwidth of 10 bit/s was accepted")
	}
}

func TestAddressesPutIPv4First(t *testing.T) {
	var r types100.Result
	err := json.Unmarshal([]byte(`{"cniVersion":"1.0.0",
		"interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/ns"},{"name":"eth1","sandbox":"/ns"}],
		"ips":[{"address":"fd00::2/64","interface":1},{"address":"10.0.0.1/24","interface":0},
			{"address":"10.0.0.2/24","interface":1},{"address":"10.1.0.2/24","interface":2},{"address":"10.2.0.2/24"}]}`), &r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := addresses(&r)
	want := []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2"), netip.MustParseAddr("10.2.0.2")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := addresses(&types100.Result{CNIVersion: "1.0.0"}); err == nil {
		t.Error("a result without addresses was accepted")
	}
}
