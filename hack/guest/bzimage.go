package main

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// Offsets in the header of a bzImage (Documentation/arch/x86/boot.rst).
const (
	offSetupSects    = 0x1f1
	offPayload       = 0x248
	offPayloadLength = 0x24c
	headerLength     = 0x250
)

// maxVmlinux bounds what a compressed kernel may become.
const maxVmlinux = 512 << 20

// extract takes the ELF file out of a bzImage. QEMU starts that directly, by its PVH
// note: the guest need not unpack itself, which takes a second under emulation.
func extract(image []byte) ([]byte, error) {
	if len(image) < headerLength || !bytes.Equal(image[0x202:0x206], []byte("HdrS")) {
		return nil, fmt.Errorf("kernel image is no bzImage")
	}
	setup := int(image[offSetupSects])
	if setup == 0 {
		setup = 4
	}
	start := (setup+1)*512 + int(binary.LittleEndian.Uint32(image[offPayload:]))
	length := int(binary.LittleEndian.Uint32(image[offPayloadLength:]))
	// The payload is followed by its length when unpacked, in four bytes.
	if length < 4 || start+length > len(image) {
		return nil, fmt.Errorf("kernel image of %d bytes has its payload at %d, %d long", len(image), start, length)
	}
	payload := image[start : start+length-4]
	if !bytes.HasPrefix(payload, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		return nil, fmt.Errorf("kernel image is packed in an unknown way: % x", payload[:4])
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxVmlinux), zstd.WithDecoderMaxWindow(maxVmlinux))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	elf, err := d.DecodeAll(payload, nil)
	if err != nil {
		return nil, fmt.Errorf("unpack kernel image: %w", err)
	}
	if !bytes.HasPrefix(elf, []byte("\x7fELF")) {
		return nil, fmt.Errorf("kernel image holds no ELF file")
	}
	return elf, nil
}
