package sandbox

import (
	"reflect"
	"testing"

	"github.com/cricket-cri/cricket/runtime"
)

// TestRelimit: what an update leaves out stays, and counts when the other half changes.
func TestRelimit(t *testing.T) {
	type limits = runtime.Resources
	was, overhead := limits{CPUShares: 100, MemoryLimit: 1000, MemorySwapLimit: 1500}, limits{CPUShares: 10, MemoryLimit: 100}
	for name, tt := range map[string]struct {
		has              Config
		update, overhead *limits
		want             limits
	}{
		"nothing":          {Config{Resources: &was, Overhead: &overhead}, nil, nil, limits{CPUShares: 110, MemoryLimit: 1100, MemorySwapLimit: 1600}},
		"processors alone": {Config{Resources: &was, Overhead: &overhead}, &limits{CPUShares: 200}, nil, limits{CPUShares: 210, MemoryLimit: 1100, MemorySwapLimit: 1600}},
		"memory alone":     {Config{Resources: &was, Overhead: &overhead}, &limits{MemoryLimit: 500, MemorySwapLimit: 500}, nil, limits{CPUShares: 110, MemoryLimit: 600, MemorySwapLimit: 600}},
		"no limit":         {Config{Resources: &was, Overhead: &overhead}, &limits{MemoryLimit: -1, MemorySwapLimit: -1}, nil, limits{CPUShares: 110, MemoryLimit: -1, MemorySwapLimit: -1}},
		"overhead":         {Config{Resources: &was, Overhead: &overhead}, nil, &limits{MemoryLimit: 50}, limits{CPUShares: 110, MemoryLimit: 1050, MemorySwapLimit: 1550}},
		"the first":        {Config{}, &was, &overhead, limits{CPUShares: 110, MemoryLimit: 1100, MemorySwapLimit: 1600}},
	} {
		c := tt.has
		c.Relimit(tt.update, tt.overhead)
		if got := c.Limits(); !reflect.DeepEqual(*got, tt.want) {
			t.Errorf("%s: %+v, want %+v", name, *got, tt.want)
		}
	}
	c := Config{Resources: &was, Overhead: &overhead}
	c.Relimit(&limits{CPUShares: 200}, nil)
	c.Relimit(nil, &limits{MemoryLimit: 200})
	if got := c.Limits(); got.CPUShares != 210 || got.MemoryLimit != 1200 {
		t.Errorf("one after the other: %+v", *got)
	}
	if was.CPUShares != 100 || overhead.MemoryLimit != 100 {
		t.Error("limits that others may hold have changed")
	}
}
