package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Paths are the places of one runtime under test, all below one directory.
type Paths struct {
	Dir     string
	Root    string // what survives a reboot
	State   string // what does not
	Socket  string // of CRI
	Hosts   string // hosts.toml directories: every registry has the test registry as its mirror
	CNIConf string
	Leases  string // of the host-local plugin
	Log     string // of the daemon
	// Registry (HOST:PORT) is the mirror of every registry.
	Registry string
}

// CNIBin are the directories in which the machine has its CNI plugins.
var CNIBin = []string{"/opt/cni/bin", "/usr/lib/cni"}

// MakePaths makes a runtime's directories below dir and writes the configuration that
// every runtime reads: a mirror at http://registry (HOST:PORT) and one
// network.
func MakePaths(dir, registry string) (Paths, error) {
	p := Paths{
		Dir:     dir,
		Root:    filepath.Join(dir, "root"),
		State:   filepath.Join(dir, "state"),
		Socket:  filepath.Join(dir, "cri.sock"),
		Hosts:   filepath.Join(dir, "hosts"),
		CNIConf: filepath.Join(dir, "net.d"),
		Leases:  filepath.Join(dir, "leases"),
		Log:     filepath.Join(dir, "daemon.log"),

		Registry: registry,
	}
	for _, d := range []string{p.Root, p.State, filepath.Join(p.Hosts, "_default"), p.CNIConf, p.Leases} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return p, err
		}
	}
	hosts := fmt.Sprintf("[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", registry)
	if err := os.WriteFile(filepath.Join(p.Hosts, "_default/hosts.toml"), []byte(hosts), 0o644); err != nil {
		return p, err
	}
	list := strings.ReplaceAll(conflist, "LEASES", p.Leases)
	return p, os.WriteFile(filepath.Join(p.CNIConf, "10-test.conflist"), []byte(list), 0o644)
}

const conflist = `{
  "cniVersion": "1.0.0",
  "name": "cricket-test",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cricket0",
      "isGateway": true,
      "ipMasq": true,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "dataDir": "LEASES",
        "ranges": [[{"subnet": "10.89.0.0/16"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
  ]
}
`
