package qemu

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// Processor describes what a saved state depends on of the processor that guests of a shape
// see: the model, the rate of its clock, which they measure once, and with KVM the host's.
func Processor(s vmm.Shape) string {
	text := fmt.Sprintf("%s, clock of %d kHz", cpuModel(s), hostTSC())
	if s.Accelerator == vmm.AccelTCG {
		return text
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return text
	}
	var model string
	features := sha256.New()
	for line := range strings.Lines(string(info)) {
		key, value, _ := strings.Cut(line, ":")
		switch key, value = strings.TrimSpace(key), strings.TrimSpace(value); key {
		case "model name":
			model = value
		case "flags":
			_, _ = features.Write([]byte(value)) // never fails
		case "": // the first one says it all
			return fmt.Sprintf("%s, %s with features %s", text, model, hex.EncodeToString(features.Sum(nil)[:8]))
		}
	}
	return text
}
