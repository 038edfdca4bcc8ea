package verity

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

// What `fsverity digest` of fsverity-utils 1.5 prints for files of so many blocks.
var golden = map[int]string{
	1:     "babc284ee4ffe7f449377fbf6692715b43aec7bc39c094a95878904d34bac97e",
	2:     "4c99b656efcafdb1282a1bb57dc8afeeb2174fea68412f361e74f5d39e53f07c",
	127:   "8d9dc96b72fb1161f0ffa58054b5ea07842a256a3aee93138fa5aba3aa544399",
	128:   "645e369f2c3a5977ee276dd2b84af8000ac23852d075d1db7d43668652a5fbff",
	129:   "0ba36a2f6e22faa1db3c9111d4ad441a9df7b1f1d7b043c21e650a51f8c50902",
	130:   "8b95f5db08e1286441baa4a7551d0e8aac1d41133c0fe5b5c5a45fce5eea0579",
	300:   "e97b44c3fb3a59567d965f0131ff7a8e812ab55e31aded1a93059ec1fd4061cd",
	16517: "7ae96ae42eca36d57dfb7c48abf821e2329a7f9168651dcbf8e5c638a9a3589c",
}

// content is the file: every fifth block is zeros.
func content(blocks int) []byte {
	b := make([]byte, 0, blocks*BlockSize)
	for i := range blocks {
		fill := byte(i * 7 % 251)
		if i%5 == 3 {
			fill = 0
		}
		b = append(b, bytes.Repeat([]byte{fill}, BlockSize)...)
	}
	return b
}

func TestDigestIsTheKernels(t *testing.T) {
	for blocks, want := range golden {
		file := content(blocks)
		got, err := Of(t.Context(), bytes.NewReader(file), int64(len(file)))
		if err != nil || got.Encoded() != want {
			t.Errorf("%d blocks read: %s, %v, want %s", blocks, got, err, want)
		}
		// As layers are written: the first block last, zeros left out.
		var h Hasher
		for i := 1; i < blocks; i++ {
			if i%5 != 3 {
				h.WriteAt(file[i*BlockSize:(i+1)*BlockSize], int64(i)*BlockSize)
			}
		}
		h.WriteAt(file[:BlockSize], 0)
		if got, err := h.Sum(int64(len(file))); err != nil || got.Encoded() != want {
			t.Errorf("%d blocks written: %s, %v, want %s", blocks, got, err, want)
		}
	}
}

func TestOrder(t *testing.T) {
	block := make([]byte, BlockSize)
	for name, write := range map[string]func(h *Hasher){
		"backwards":      func(h *Hasher) { h.WriteAt(block, 3*BlockSize); h.WriteAt(block, 2*BlockSize) },
		"twice":          func(h *Hasher) { h.WriteAt(block, 3*BlockSize); h.WriteAt(block, 3*BlockSize) },
		"not a block":    func(h *Hasher) { h.WriteAt(block[1:], BlockSize) },
		"not aligned":    func(h *Hasher) { h.WriteAt(block, BlockSize+1) },
		"beyond the end": func(h *Hasher) { h.WriteAt(block, 10*BlockSize) },
	} {
		var h Hasher
		write(&h)
		if got, err := h.Sum(10 * BlockSize); err == nil {
			t.Errorf("%s: digest %s, want an error", name, got)
		}
	}
}

// Where the kernel or the file system has no fs-verity that is said; where they have, the
// kernel's digest is ours.
func TestEnable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	file := content(130)
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Enable(f); errdefs.IsNotImplemented(err) {
		if _, err := Measure(f); !errdefs.IsNotFound(err) {
			t.Errorf("measure = %v, want not found", err)
		}
		t.Logf("not tried further: %v", err)
		return
	} else if err != nil {
		t.Fatal(err)
	}
	if got, err := Measure(f); err != nil || got.Encoded() != golden[130] {
		t.Errorf("measure = %s, %v", got, err)
	}
}
