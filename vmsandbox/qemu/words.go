package qemu

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const (
	// tailBytes is how much of QEMU's last words an error quotes.
	tailBytes = 2048
	// searchBytes is how far back the reason is looked for.
	searchBytes = 64 << 10
)

// panicMark is what Linux prints before a long trace.
const panicMark = "Kernel panic"

// lastWords returns the end of what QEMU and the guest's console said, or the reason for
// the kernel's panic, on one line.
func lastWords(dir string) string {
	f, err := os.Open(filepath.Join(dir, logName))
	if err != nil {
		return ""
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > searchBytes {
		_, _ = f.Seek(-searchBytes, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, searchBytes))
	return quote(b)
}

func quote(b []byte) string {
	if at := bytes.Index(b, []byte(panicMark)); at >= 0 && len(b)-at > tailBytes {
		b = b[at : at+tailBytes/4]
	} else if len(b) > tailBytes {
		b = b[len(b)-tailBytes:]
	}
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(b), " "))
	return strings.Join(strings.Fields(clean), " ")
}
