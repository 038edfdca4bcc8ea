package sandbox

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// TestNamesOfWhatVanishes: a container's directory may be removed while another
// sandbox's is looked for. That it is gone by then is no error.
func TestNamesOfWhatVanishes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layer")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Mkdir(dir, 0o700)
			_ = os.Remove(dir)
		}
	})
	for began := time.Now(); time.Since(began) < 500*time.Millisecond; {
		if _, err := readNames(dir); err != nil {
			t.Fatal(err)
		}
	}
}
