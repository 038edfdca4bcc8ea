package monitor

// machine is the ELF name of this architecture.
const machine = 62

// idleCode returns the program of a confined pod init, to be followed by its name. It knows
// no library and no memory but its own page:
//
//	if prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 { exit_group(1) }
//	prctl(PR_SET_NAME, name)
//	write(0, name, 8)
//	close(0)
//	for { pause() }
func idleCode() []byte {
	return []byte{
		0xbf, 0x04, 0x00, 0x00, 0x00, //             mov  edi, PR_SET_DUMPABLE
		0x31, 0xf6, //                               xor  esi, esi
		0x31, 0xd2, //                               xor  edx, edx
		0x45, 0x31, 0xd2, //                         xor  r10d, r10d
		0x45, 0x31, 0xc0, //                         xor  r8d, r8d
		0xb8, 0x9d, 0x00, 0x00, 0x00, //             mov  eax, prctl
		0x0f, 0x05, //                               syscall
		0x85, 0xc0, //                               test eax, eax
		0x75, 0x33, //                               jne  fail
		0xbf, 0x0f, 0x00, 0x00, 0x00, //             mov  edi, PR_SET_NAME
		0x48, 0x8d, 0x35, 0x33, 0x00, 0x00, 0x00, // lea  rsi, [rip+name]
		0xb8, 0x9d, 0x00, 0x00, 0x00, //             mov  eax, prctl
		0x0f, 0x05, //                               syscall
		0x31, 0xff, //                               xor  edi, edi
		0xba, 0x08, 0x00, 0x00, 0x00, //             mov  edx, 8
		0xb8, 0x01, 0x00, 0x00, 0x00, //             mov  eax, write
		0x0f, 0x05, //                               syscall
		0x31, 0xff, //                               xor  edi, edi
		0xb8, 0x03, 0x00, 0x00, 0x00, //             mov  eax, close
		0x0f, 0x05, //                               syscall
		0xb8, 0x22, 0x00, 0x00, 0x00, //       again: mov eax, pause
		0x0f, 0x05, //                               syscall
		0xeb, 0xf7, //                               jmp  again
		0xbf, 0x01, 0x00, 0x00, 0x00, //       fail: mov  edi, 1
		0xb8, 0xe7, 0x00, 0x00, 0x00, //             mov  eax, exit_group
		0x0f, 0x05, //                               syscall
	}
}
