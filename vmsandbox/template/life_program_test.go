package template

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/layer/erofs"
)

// programPath is where the image has its only program.
const programPath = "/bin/life"

// greeting is what the program says.
const greeting = "warm\n"

// program returns a static x86-64 program. Without an argument it says its greeting and
// waits for a signal that ends it; with one it ends at once.
func program() []byte {
	const base, start = 0x400000, 64 + 56 // where it is loaded, and the size of the headers
	code := []byte{
		0x48, 0x8b, 0x3c, 0x24, // mov (%rsp),%rdi: the number of arguments
		0x83, 0xff, 0x01, // cmp $1,%edi
		0x75, 0x1f, // jne exit
		0xb8, unix.SYS_WRITE, 0, 0, 0, // mov $write,%eax
		0xbf, 1, 0, 0, 0, // mov $1,%edi
		0x48, 0x8d, 0x35, 0x17, 0, 0, 0, // lea greeting(%rip),%rsi
		0xba, byte(len(greeting)), 0, 0, 0, // mov $len,%edx
		0x0f, 0x05, // syscall
		0xb8, unix.SYS_PAUSE, 0, 0, 0, // mov $pause,%eax
		0x0f, 0x05, // syscall
		0x31, 0xff, // exit: xor %edi,%edi
		0xb8, unix.SYS_EXIT, 0, 0, 0, // mov $exit,%eax
		0x0f, 0x05, // syscall
	}
	code = append(code, greeting...)
	size := uint64(start + len(code))
	var b bytes.Buffer
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: base + start, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	load := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 0x1000,
	}
	for _, part := range []any{header, load, code} {
		_ = binary.Write(&b, binary.LittleEndian, part) // a buffer takes everything
	}
	return b.Bytes()
}

// smallImage makes an image with that program in memory, as the disk that the layers of an
// image are.
func smallImage(ctx context.Context) (*os.File, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, dir := range []string{"bin", "dev", "etc", "proc", "sys", "tmp"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return nil, fmt.Errorf("make image: %w", err)
		}
	}
	content := program()
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: programPath[1:], Mode: 0o755, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write(content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	f, err := memoryFile("image", 0)
	if err != nil {
		return nil, err
	}
	if _, err = erofs.Write(ctx, f, &archive, erofs.Options{}); err != nil {
		f.Close()
		return nil, fmt.Errorf("make image: %w", err)
	}
	return f, nil
}
