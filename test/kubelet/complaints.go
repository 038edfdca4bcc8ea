package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

// complaint is a warning or an error of the kubelet, without what differs between two
// of a kind.
var complaint = regexp.MustCompile(`^[WE]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ([^\]]+)\] (.*)$`)

// complaints is an error that lists what the kubelet logged beyond what is expected.
func (n *node) complaints(context.Context) error {
	data, err := os.ReadFile(n.kubelet.Log)
	if err != nil {
		return err
	}
	found := map[string]int{}
	for l := range bytes.Lines(data) {
		m := complaint.FindSubmatch(bytes.TrimSpace(l))
		if m == nil || isExpected(string(m[2])) {
			continue
		}
		found[string(m[1])+" "+string(m[2])]++
	}
	if len(found) == 0 {
		return nil
	}
	return fmt.Errorf("it said:\n  %s", strings.Join(slices.Sorted(maps.Keys(found)), "\n  "))
}

// isExpected tells whether a complaint is known not to be the runtime's doing.
func isExpected(message string) bool {
	return slices.ContainsFunc([]string{
		// The machine may withhold CAP_SYS_RESOURCE.
		"Failed to ensure process in container with oom score",
		"Failed to set rlimit on max file handles",
		// There is no API server.
		"kubeclient not set, assuming standalone kubelet",
		"Skipping CSINode initialization",
		"failed to check if node is newer",
		// A kubelet that has just started.
		"pleg has yet to be successful",
		"checkpoint is not found",
		"Flexvolume plugin directory at",
		// It knows this of CRI-O only.
		"no imagefs label for configured runtime",
		// Its question whether the runtime can tell figures of pods: any answer is one.
		`"PodSandbox from runtime service failed" err="rpc error: code = InvalidArgument desc = find sandbox: empty id`,
		// The end of an exec session overtakes what its client sends last.
		"Error proxying data from client to backend",
		// A pod's removal overtakes the work on it.
		"code = Canceled desc = context canceled",
		// The test kills the runtime's daemon.
		"connect: connection refused",
		// The test ends a container on purpose.
		`failed to \"StartContainer\" for \"app\" with CrashLoopBackOff`,
	}, func(part string) bool { return strings.Contains(message, part) })
}
