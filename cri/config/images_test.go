package config

import (
	"testing"
	"time"
)

func TestImageOptions(t *testing.T) {
	c := Default()
	c.Images.AuthFile, c.Images.MaxLayerSize, c.Images.ProgressDeadline = "/auth", 7, Duration{time.Minute}
	c.Images.MaxRegistryDownloads, c.Images.MaxTotalDownloads = 8, 9
	o := c.ImageOptions()
	if o.AuthFile != "/auth" || o.MaxLayer != 7<<20 || o.Stall != time.Minute || o.PerRegistry != 8 || o.Total != 9 {
		t.Errorf("options = %+v", o)
	}
	c.Images.ProgressDeadline = Duration{}
	if o := c.ImageOptions(); o.Stall < 365*24*time.Hour {
		t.Errorf("without a deadline a pull may receive nothing for %s", o.Stall)
	}
}
