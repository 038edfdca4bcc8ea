package sandbox

import "github.com/cricket-cri/cricket/runtime"

// Limits are those of the pod as a whole: its containers' and its overhead together,
// where both are limited.
func (c *Config) Limits() *runtime.Resources {
	if c.Resources == nil || c.Overhead == nil {
		return c.Resources
	}
	sum := *c.Resources
	if sum.CPUShares > 0 {
		sum.CPUShares += c.Overhead.CPUShares
	}
	if sum.CPUQuota > 0 && sum.CPUPeriod == c.Overhead.CPUPeriod {
		sum.CPUQuota += c.Overhead.CPUQuota
	}
	if sum.MemoryLimit > 0 {
		sum.MemoryLimit += c.Overhead.MemoryLimit
	}
	if sum.MemorySwapLimit > 0 {
		sum.MemorySwapLimit += c.Overhead.MemoryLimit
	}
	return &sum
}

// Relimit lays new limits over those there are: what they leave out stays.
func (c *Config) Relimit(r, overhead *runtime.Resources) {
	c.Resources, c.Overhead = c.Resources.With(r), c.Overhead.With(overhead)
}
