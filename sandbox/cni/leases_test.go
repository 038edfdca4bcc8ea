package cni

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestDropTornLeases(t *testing.T) {
	conf, leases := t.TempDir(), t.TempDir()
	n, err := Open(Options{ConfDir: conf, Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if dropped, err := n.DropTornLeases(); dropped != 0 || err != nil {
		t.Errorf("without a configuration: %d, %v", dropped, err)
	}
	list := fmt.Sprintf(`{"cniVersion":"0.4.0","name":"net","plugins":[
		{"type":"bridge","ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.1.0.0/16"}]]}},
		{"type":"portmap"}]}`, leases)
	if err := os.WriteFile(filepath.Join(conf, "1.conflist"), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	if dropped, err := n.DropTornLeases(); dropped != 0 || err != nil {
		t.Errorf("without leases: %d, %v", dropped, err)
	}
	dir := filepath.Join(leases, "net")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"10.1.0.2": "abc\r\neth0", "10.1.0.3": "", "10.1.0.4": "\x00\x00\x00", "fd00::5": "", "last_reserved_ip.0": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if dropped, err := n.DropTornLeases(); dropped != 3 || err != nil {
		t.Errorf("dropped %d, %v; want 3", dropped, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{"10.1.0.2", "last_reserved_ip.0", "lock"}; !slices.Equal(left, want) {
		t.Errorf("left: %q, want %q", left, want)
	}
}
