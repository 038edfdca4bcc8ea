package main

import (
	"fmt"

	"github.com/cricket-cri/cricket/cri/config"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/quota"
)

// openQuota is nil where writable layers have no limit.
func openQuota(c config.Config) (*quota.Projects, error) {
	if c.Containers.WritableLimit == 0 {
		return nil, nil
	}
	dir, err := sandbox.LayerRoot(c.Root)
	if err != nil {
		return nil, err
	}
	first := uint32(c.Containers.WritableProjects)
	p, err := quota.Open(dir, uint64(c.Containers.WritableLimit)<<20, quota.Range{First: first, Last: first + config.ProjectCount - 1})
	if err != nil {
		return nil, fmt.Errorf("containers.writable_limit: %w", err)
	}
	return p, nil
}
