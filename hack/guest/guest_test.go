package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestNewest(t *testing.T) {
	names := []string{
		"linux-image-6.12.99+deb12-amd64", "linux-image-6.12.117+deb12-amd64", "linux-image-6.12.117+deb12-cloud-amd64",
		"linux-image-6.12.118+deb12-amd64-unsigned", "linux-image-6.12.117+deb12-rt-amd64", "linux-image-6.12.12+bpo-amd64",
	}
	if got := newest(names); got != "linux-image-6.12.117+deb12-amd64" {
		t.Errorf("newest = %s", got)
	}
	if got := newest([]string{"linux-image-amd64"}); got != "" {
		t.Errorf("newest = %s", got)
	}
}

// bzImage is a kernel image around a payload, as arch/x86/boot lays it out.
func bzImage(payload []byte) []byte {
	image := make([]byte, 3*512)
	image[offSetupSects] = 1
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint32(image[offPayload:], 512)
	binary.LittleEndian.PutUint32(image[offPayloadLength:], uint32(len(payload)+4))
	return append(append(image, payload...), 1, 2, 3, 4)
}

func TestExtract(t *testing.T) {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	elf := append([]byte("\x7fELF"), bytes.Repeat([]byte("kernel"), 1000)...)
	got, err := extract(bzImage(w.EncodeAll(elf, nil)))
	if err != nil || !bytes.Equal(got, elf) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	short := bzImage(w.EncodeAll(elf, nil))
	for name, image := range map[string][]byte{
		"nothing": nil, "no kernel": make([]byte, 4096), "cut off": short[:len(short)-5], "gzip": bzImage([]byte{0x1f, 0x8b, 8, 0}), "no ELF": bzImage(w.EncodeAll([]byte("text"), nil)),
	} {
		if _, err := extract(image); err == nil {
			t.Errorf("%s is taken for a kernel", name)
		}
	}
}

func TestOrder(t *testing.T) {
	all := map[string]module{
		"ext4": {name: "ext4", depends: []string{"jbd2", "crc32c", "mb-cache"}}, "jbd2": {name: "jbd2"},
		"mb_cache": {name: "mb_cache"}, "erofs": {name: "erofs", depends: []string{"jbd2"}},
	}
	got, err := order([]string{"built_in", "ext4", "erofs"}, func(name string) (module, bool, error) { m, ok := all[name]; return m, ok, nil })
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range got {
		names = append(names, m.name)
	}
	if want := []string{"jbd2", "mb_cache", "ext4", "erofs"}; !slices.Equal(names, want) {
		t.Errorf("order = %q, not %q", names, want)
	}
}

func TestWriteCpioIsReproducible(t *testing.T) {
	var a, b bytes.Buffer
	for _, w := range []*bytes.Buffer{&a, &b} {
		if err := writeCpio(w, files([]byte("x"), nil)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) || a.Len()%4 != 0 || !strings.HasPrefix(a.String(), "070701") {
		t.Errorf("%d and %d bytes", a.Len(), b.Len())
	}
}

func TestCompareConfig(t *testing.T) {
	wanted := "# a comment\nCONFIG_A=y\nCONFIG_B=\"x\"\n# CONFIG_C is not set\n"
	if err := compareConfig([]byte(wanted), []byte("CONFIG_A=y\nCONFIG_B=\"x\"\nCONFIG_D=y\n")); err != nil {
		t.Error(err)
	}
	err := compareConfig([]byte(wanted), []byte("CONFIG_A=m\nCONFIG_B=\"x\"\nCONFIG_C=y\n"))
	if err == nil || !strings.Contains(err.Error(), "CONFIG_A=y") || !strings.Contains(err.Error(), "CONFIG_C") {
		t.Error(err)
	}
}

func TestKernelConfigNamesEachOptionOnce(t *testing.T) {
	text, err := os.ReadFile("kernel.config")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		name, _, ok := strings.Cut(line, "=")
		if ok && strings.HasPrefix(name, "CONFIG_") {
			if seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
		}
	}
}
