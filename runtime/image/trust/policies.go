package trust

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ErrRefused is wrapped by every error that says that a policy does not let an image be
// used.
var ErrRefused = errors.New("refused by the signature policy")

// Policies are the policy files of a node. They are read anew each time, so that a change
// counts from the next pull and the next container on.
type Policies struct {
	// File is the node's policy; empty for none, which accepts everything.
	File string
	// Dir holds NAMESPACE.json, the policy of the pods of a namespace in place of the
	// node's; empty for none.
	Dir string
}

// Enabled says whether there is anything to decide.
func (p Policies) Enabled() bool { return p.File != "" || p.Dir != "" }

// For returns the policy that holds for pods of a namespace, or for no pod if that is
// empty; nil if none does. A file that is missing or wrong is ErrFailedPrecondition.
func (p Policies) For(namespace string) (*Policy, error) {
	if p.Dir != "" && namespace != "" && namespace == filepath.Base(namespace) {
		path := filepath.Join(p.Dir, namespace+".json")
		// Only a policy that is not there leaves the decision to the node's: one that names
		// a key that is not there, or is a link to nowhere, must not mean less.
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			return read(path)
		}
		// Nor must a directory that is not there, or not yet: all policies would be missing.
		is, err := os.Stat(p.Dir)
		if err == nil && !is.IsDir() {
			err = unix.ENOTDIR
		}
		if err != nil {
			return nil, fmt.Errorf("find signature policies: %w: %w", errdefs.ErrFailedPrecondition, err)
		}
	}
	if p.File == "" {
		return nil, nil
	}
	return read(p.File)
}

func read(path string) (*Policy, error) {
	raw, err := os.ReadFile(path)
	var policy *Policy
	if err == nil {
		policy, err = Parse(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("read signature policy %s: %w: %w", path, errdefs.ErrFailedPrecondition, err)
	}
	return policy, nil
}
