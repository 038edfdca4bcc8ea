package harness

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

// SeedEnv repeats a run with random moments, as far as time can be repeated.
const SeedEnv = "CRICKET_TEST_SEED"

// Seed is that of SeedEnv, or another one each time. Tests log it.
func Seed() (uint64, error) {
	s := os.Getenv(SeedEnv)
	if s == "" {
		return uint64(time.Now().UnixNano()), nil
	}
	seed, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", SeedEnv, err)
	}
	return seed, nil
}
