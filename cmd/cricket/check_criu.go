package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/cricket-cri/cricket/cri/config"
	"github.com/cricket-cri/cricket/runtime/checkpoint"
	"github.com/cricket-cri/cricket/runtime/oci"
)

// checkpoints finds out whether CRIU works here, and with which OCI runtimes.
func (h host) checkpoints(ctx context.Context) []finding {
	const lacks = "checkpoints of containers (CheckpointContainer)"
	path, err := (&checkpoint.CRIU{Path: h.config.Checkpoint.CRIU}).Check(ctx)
	if err != nil {
		return []finding{{Name: "checkpoints", Grade: limited, Detail: err.Error(), Lacks: lacks, Fix: "apt-get install criu, or see docs/configuration.md"}}
	}
	var with []string
	for _, name := range slices.Sorted(maps.Keys(h.config.Runtimes)) {
		if r := h.config.Runtimes[name]; r.Type != config.TypeVM && worksWithCRIU(ctx, name, r) {
			with = append(with, name)
		}
	}
	if len(with) == 0 {
		return []finding{{Name: "checkpoints", Grade: limited, Detail: path + " works, but no OCI runtime is built to work with it", Lacks: lacks, Fix: "apt-get install runc"}}
	}
	return []finding{ok("checkpoints", "%s, for pods of %s", path, strings.Join(with, ", "))}
}

func worksWithCRIU(ctx context.Context, name string, r config.Runtime) bool {
	program := r.Path
	if program == "" {
		program = name
	}
	found, err := oci.Find(program)
	if err != nil {
		return false
	}
	f, err := found.Features(ctx)
	return err == nil && f.Checkpoint
}
