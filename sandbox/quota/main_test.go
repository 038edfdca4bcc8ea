package quota

import (
	"os"
	"testing"
	"time"
)

// TestMain only waits where it is told to: the first process of a container that has no
// other program.
func TestMain(m *testing.M) {
	if os.Getenv("CRICKET_TEST_QUOTA_WAIT") != "" {
		time.Sleep(time.Hour)
	}
	os.Exit(m.Run())
}
