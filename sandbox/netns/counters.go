package netns

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cricket-cri/cricket/runtime"
)

const (
	// ownInterface is what a pod's own interface is called.
	ownInterface = "eth0"
	// maxInterfaces is how many interfaces are told of: as many as a guest may tell of.
	maxInterfaces = 256
)

// Counters reads the counters of every interface but loopback of the network
// namespace at path, as ParseCounters has them.
func Counters(path string) ([]runtime.NetworkStat, error) {
	var table []byte
	err := Do(path, func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/dev")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read interface counters: %w", err)
	}
	return ParseCounters(table), nil
}

// ParseCounters reads the format of proc_pid_net(5): two lines of headings, then per
// interface eight receive and eight transmit columns. Whoever is root in a pod makes as many
// interfaces as they like, of any name without white space, '/' and ':': the pod's own comes
// first, of others there are 255 at most, and names are printable.
func ParseCounters(table []byte) []runtime.NetworkStat {
	var own, others []runtime.NetworkStat
	for lines := bufio.NewScanner(bytes.NewReader(table)); lines.Scan(); {
		name, rest, found := strings.Cut(lines.Text(), ":")
		columns := strings.Fields(rest)
		name = strings.Trim(name, " ")
		if !found || len(columns) < 16 || name == "lo" {
			continue
		}
		n := func(i int) uint64 {
			v, _ := strconv.ParseUint(columns[i], 10, 64)
			return v
		}
		stat := runtime.NetworkStat{
			Name:    printable(name),
			RxBytes: n(0), RxPackets: n(1), RxErrors: n(2), RxDropped: n(3),
			TxBytes: n(8), TxPackets: n(9), TxErrors: n(10), TxDropped: n(11),
		}
		switch {
		case name == ownInterface:
			own = append(own, stat)
		case len(others) < maxInterfaces-1:
			others = append(others, stat)
		}
	}
	return slices.Concat(own, others)
}

// printable quotes a name that is not. No two become the same: figures that are there twice
// are refused by those who collect them.
func printable(name string) string {
	if quoted := strconv.Quote(name); quoted != `"`+name+`"` {
		return quoted
	}
	return name
}
