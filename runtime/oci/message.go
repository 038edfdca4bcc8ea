package oci

import (
	"bytes"
	"encoding/json"
	"strings"
)

// Message picks what went wrong out of a runtime's JSON log: the last error, or the
// last line of any level if none is an error. It is empty if the log says nothing.
func Message(log []byte) string {
	var last, failed string
	for line := range bytes.Lines(log) {
		var entry struct{ Level, Msg string }
		text := strings.TrimSpace(string(line))
		if text == "" {
			continue
		}
		if json.Unmarshal(line, &entry) != nil || entry.Msg == "" {
			last = text
			continue
		}
		last = entry.Msg
		if entry.Level == "error" || entry.Level == "fatal" {
			failed = entry.Msg
		}
	}
	if failed != "" {
		return failed
	}
	return last
}
