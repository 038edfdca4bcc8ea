package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// adjustOOM gives a process the score that it was to have, if it has another. OOM scores
// are inherited, crun 1.8 sets none for what it executes, and the monitor's own keeps the
// kernel from ever choosing it: without this, it would not choose what is executed in a
// container either. A process that is gone needs none.
func adjustOOM(pid int, score *int) error {
	if score == nil {
		return nil
	}
	name, want := "/proc/"+strconv.Itoa(pid)+"/oom_score_adj", strconv.Itoa(*score)
	err := func() error {
		now, err := os.ReadFile(name)
		if err != nil || strings.TrimSpace(string(now)) == want {
			return err
		}
		return os.WriteFile(name, []byte(want), 0)
	}()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set OOM score: %w", err)
	}
	return nil
}
