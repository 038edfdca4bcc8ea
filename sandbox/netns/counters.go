package netns

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cricket-cri/cricket/runtime"
)

// Counters reads the counters of every interface but loopback of the network
// namespace at path.
func Counters(path string) ([]runtime.NetworkStat, error) {
	var table []byte
	err := Do(path, func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/dev")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read interface counters: %w", err)
	}
	return parseCounters(table), nil
}

// parseCounters reads the format of proc_pid_net(5): two lines of headings, then per
// interface eight receive and eight transmit columns.
func parseCounters(table []byte) []runtime.NetworkStat {
	var stats []runtime.NetworkStat
	for lines := bufio.NewScanner(bytes.NewReader(table)); lines.Scan(); {
		name, rest, found := strings.Cut(lines.Text(), ":")
		columns := strings.Fields(rest)
		name = strings.TrimSpace(name)
		if !found || len(columns) < 16 || name == "lo" {
			continue
		}
		n := func(i int) uint64 {
			v, _ := strconv.ParseUint(columns[i], 10, 64)
			return v
		}
		stats = append(stats, runtime.NetworkStat{
			Name:    name,
			RxBytes: n(0), RxPackets: n(1), RxErrors: n(2), RxDropped: n(3),
			TxBytes: n(8), TxPackets: n(9), TxErrors: n(10), TxDropped: n(11),
		})
	}
	return stats
}
