package cri

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxSeccompArg is the last argument of a system call.
const maxSeccompArg = 5

// parseSeccomp parses a profile in the form of the OCI specification, which is the one that
// the kubelet documents. What is wrong with it is told with the line: the OCI runtime would
// not say where.
func parseSeccomp(field, name string, text []byte) (*specs.LinuxSeccomp, error) {
	var out specs.LinuxSeccomp
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&out); err != nil {
		return nil, badField(field, "%s:%d: %w", name, errorLine(text, err), err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, badField(field, "%s:%d: text after the profile", name, lineAt(text, d.InputOffset()))
	}
	if out.DefaultAction == "" {
		return nil, badField(field, "%s: no defaultAction", name)
	}
	if path, why := seccompMistake(&out); path != "" {
		return nil, badField(field, "%s:%d: %s: %s", name, lineAt(text, place(text, path)), path, why)
	}
	return &out, nil
}

// seccompMistake is the first value of a profile that means nothing, by its path, and why:
// https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp.
func seccompMistake(s *specs.LinuxSeccomp) (path, why string) {
	if !isSeccompAction(s.DefaultAction) {
		return "defaultAction", unknown(s.DefaultAction)
	}
	for i, a := range s.Architectures {
		if !isSeccompArchitecture(a) {
			return fmt.Sprintf("architectures[%d]", i), unknown(a)
		}
	}
	for i, f := range s.Flags {
		if !isSeccompFlag(f) {
			return fmt.Sprintf("flags[%d]", i), unknown(f)
		}
	}
	for i, call := range s.Syscalls {
		at := fmt.Sprintf("syscalls[%d]", i)
		if !isSeccompAction(call.Action) {
			return at + ".action", unknown(call.Action)
		}
		for j, arg := range call.Args {
			at := fmt.Sprintf("%s.args[%d]", at, j)
			if !isSeccompOperator(arg.Op) {
				return at + ".op", unknown(arg.Op)
			}
			if arg.Index > maxSeccompArg {
				return at + ".index", fmt.Sprintf("%d is more than %d", arg.Index, maxSeccompArg)
			}
		}
	}
	return "", ""
}

func isSeccompAction(a specs.LinuxSeccompAction) bool {
	switch a {
	case specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActErrno,
		specs.ActTrace, specs.ActAllow, specs.ActLog, specs.ActNotify:
		return true
	}
	return false
}

func isSeccompOperator(o specs.LinuxSeccompOperator) bool {
	switch o {
	case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
		specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual:
		return true
	}
	return false
}

func isSeccompFlag(f specs.LinuxSeccompFlag) bool {
	switch f {
	case "SECCOMP_FILTER_FLAG_TSYNC", specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow, specs.LinuxSeccompFlagWaitKillableRecv:
		return true
	}
	return false
}

func isSeccompArchitecture(a specs.Arch) bool {
	switch a {
	case "SCMP_ARCH_NATIVE", // libseccomp's, of the machine's own
		specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64,
		specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32, specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32,
		specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390, specs.ArchS390X,
		specs.ArchPARISC, specs.ArchPARISC64, specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB:
		return true
	}
	return false
}

func unknown[T ~string](word T) string { return fmt.Sprintf("%q is unknown", word) }

// place is the offset of a value in a profile, or of the object that lacks it.
func place(text []byte, path string) int64 {
	all := places(text)
	path = strings.ToLower(path)
	for {
		at, ok := all[path]
		if ok {
			return at
		}
		path = path[:max(0, strings.LastIndexByte(path, '.'))]
	}
}

// places are the offsets of the values of a JSON text that was parsed before, by their paths in
// small letters, as keys count in any.
func places(text []byte) map[string]int64 {
	all := map[string]int64{}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var value func(path string)
	value = func(path string) {
		token, _ := d.Token()
		all[path] = d.InputOffset()
		switch token {
		case json.Delim('{'):
			for d.More() {
				key, _ := d.Token()
				value(strings.TrimPrefix(path+"."+strings.ToLower(fmt.Sprint(key)), "."))
			}
		case json.Delim('['):
			for i := 0; d.More(); i++ {
				value(fmt.Sprintf("%s[%d]", path, i))
			}
		default:
			return
		}
		_, _ = d.Token() // its end
	}
	value("")
	return all
}

// errorLine is the line that a JSON error is in, counted from 1.
func errorLine(text []byte, err error) int {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return lineAt(text, syntax.Offset)
	case errors.As(err, &kind):
		return lineAt(text, kind.Offset)
	}
	return lineAt(text, int64(len(text)))
}

func lineAt(text []byte, offset int64) int {
	return bytes.Count(text[:min(offset, int64(len(text)))], []byte("\n")) + 1
}
