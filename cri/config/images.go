package config

import (
	"path/filepath"
	"time"

	"github.com/cricket-cri/cricket/runtime/image"
	"github.com/cricket-cri/cricket/runtime/image/trust"
)

// ImageOptions are those of the image store as far as the configuration says them: the
// daemon and the operator's tool, which opens the store while there is no daemon, add
// what is theirs.
func (c Config) ImageOptions() image.Options {
	return image.Options{
		Root: filepath.Join(c.Root, "images"), HostsDir: c.Images.HostsDir, AuthFile: c.Images.AuthFile,
		Pinned: c.Images.Pinned, Parallel: c.Images.MaxConcurrentDownloads,
		PerRegistry: c.Images.MaxRegistryDownloads, Total: c.Images.MaxTotalDownloads,
		MaxLayer: int64(c.Images.MaxLayerSize) << 20, Stall: c.Images.stall(),
		Trust: trust.Policies{File: c.Images.SignaturePolicy, Dir: c.Images.SignaturePolicyDir},
	}
}

// stall is how long a pull may receive nothing: the configuration's 0 means for ever.
func (i Images) stall() time.Duration {
	if i.ProgressDeadline.Duration == 0 {
		return 10 * 365 * 24 * time.Hour
	}
	return i.ProgressDeadline.Duration
}
