package template

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cricket-cri/cricket/runtime/layer/erofs"
)

func TestProgramOfTheImage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "life")
	if err := os.WriteFile(path, program(), 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path, "once").CombinedOutput(); err != nil || len(out) != 0 {
		t.Errorf("with an argument: %q, %v", out, err)
	}
	cmd := exec.Command(path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != greeting {
		t.Errorf("it says %q, %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error("it does not wait")
	}
	_ = cmd.Wait()
	image, err := smallImage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	st, err := image.Stat()
	if err != nil || st.Size() > 64<<10 {
		t.Errorf("image of %d bytes, %v", st.Size(), err)
	}
	if err := erofs.Check(image, st.Size()); err != nil {
		t.Error(err)
	}
}
