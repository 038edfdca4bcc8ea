package executor

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

const (
	// homeComes stands in the environment of a plan for a HOME that is not known yet.
	homeComes = "\x00HOME"
	maxHome   = 4096
	// maxPasswd bounds what of a container's own files is read.
	maxPasswd = 1 << 20
)

func hasHome(env []string) bool {
	return slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "HOME=") })
}

// homeOf is HOME for a user, from the container's /etc/passwd, or / if that has none.
func homeOf(r root, uid uint32) string {
	home := "/"
	if text, err := r.read("/etc/passwd", maxPasswd); err == nil {
		home = homeIn(text, uid)
	}
	return "HOME=" + home
}

func homeIn(passwd []byte, uid uint32) string {
	want := strconv.FormatUint(uint64(uid), 10)
	for line := range bytes.Lines(passwd) {
		fields := strings.Split(strings.TrimRight(string(line), "\n"), ":")
		if len(fields) > 5 && fields[2] == want && fields[5] != "" && len(fields[5]) < maxHome-len("HOME=\x00") {
			return fields[5]
		}
	}
	return "/"
}
