package cni

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
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

// TestDropTornLeasesOfAPluginThatHangs: the plugin's lock is waited for, but not for ever.
func TestDropTornLeasesOfAPluginThatHangs(t *testing.T) {
	dir := t.TempDir()
	torn := filepath.Join(dir, "10.1.0.3")
	if err := os.WriteFile(torn, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	held, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	drop := func() {
		dropped, err := dropTorn(dir)
		if err == nil && dropped != 1 {
			err = fmt.Errorf("%d are dropped", dropped)
		}
		ended <- err
	}
	go drop()
	select {
	case err := <-ended:
		if !errdefs.IsUnavailable(err) {
			t.Errorf("got %v", err)
		}
	case <-time.After(5 * lockTime):
		t.Error("it waits for ever")
	}
	go drop()
	time.Sleep(lockTime / 4)
	if err := unix.Flock(int(held.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("once it is given back: %v", err)
	}
}
