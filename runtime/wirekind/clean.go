package wirekind

import (
	"strings"
	"unicode"
)

// Clean makes text from the other side of a connection fit for logs and messages: at most
// limit bytes, and nothing in them that a terminal takes for more than a character.
func Clean(text string, limit int) string {
	text = strings.ToValidUTF8(text[:min(len(text), limit)], "")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}
