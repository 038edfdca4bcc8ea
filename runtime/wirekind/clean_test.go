package wirekind

import "testing"

func TestClean(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "",
		"no such file":           "no such file",
		"a\nb\x00\x1b[2J\x7f":    "a?b??[2J?",
		"d\u00e9j\u00e0 vu":      "d\u00e9j\u00e0 vu",
		"cut in a letter \u00e9": "cut in a letter ",
		"not\xff text\u202e":     "not text?",
		"more than seventeen":    "more than sevente",
	} {
		if got := Clean(text, 17); got != want {
			t.Errorf("Clean(%q) = %q, want %q", text, got, want)
		}
	}
}
