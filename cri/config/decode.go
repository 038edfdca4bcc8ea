package config

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"sort"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// decode lays data over c. The decoder stops at the first value of a wrong type; that
// line is then blanked and decoding goes on, so that one run names every mistake.
func decode(data []byte, c *Config) []Problem {
	var problems []Problem
	data = bytes.Clone(data)
	for _, e := range expressions(data) {
		if e.kind != unstable.String && keyType(e.key) == reflect.TypeFor[Duration]() {
			problems = append(problems, Problem{Line: e.first, Key: e.key, Text: `write a duration in quotes, such as "10s"`})
			blankValue(data, e.first)
		}
	}
	for {
		err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(c)
		var unknown *toml.StrictMissingError
		var wrong *toml.DecodeError
		switch {
		case err == nil:
			return problems
		case errors.As(err, &unknown):
			return append(problems, unknownKeys(unknown)...)
		case !errors.As(err, &wrong):
			return append(problems, Problem{Text: err.Error()})
		}
		line, _ := wrong.Position()
		problems = append(problems, Problem{
			Line: line,
			Key:  strings.Join(wrong.Key(), "."),
			Text: plain(wrong.Error()),
		})
		if !blankValue(data, line) {
			return problems
		}
	}
}

func unknownKeys(e *toml.StrictMissingError) []Problem {
	var problems []Problem
	seen := make(map[string]bool)
	for i := range e.Errors {
		key := strings.Join(e.Errors[i].Key(), ".")
		if seen[key] {
			continue
		}
		seen[key] = true
		line, _ := e.Errors[i].Position()
		problems = append(problems, Problem{Line: line, Key: key, Text: "unknown key; " + allowedIn(e.Errors[i].Key())})
	}
	return problems
}

// allowedIn names the keys that the table around an unknown key knows.
func allowedIn(key []string) string {
	t := reflect.TypeFor[Config]()
	where := "here"
	for _, part := range key[:max(0, len(key)-1)] {
		next, ok := fieldType(t, part)
		if !ok {
			break
		}
		t, where = next, "in ["+part+"]"
	}
	if t.Kind() != reflect.Struct {
		return "no further keys are allowed " + where
	}
	var names []string
	for i := range t.NumField() {
		names = append(names, t.Field(i).Tag.Get("toml"))
	}
	sort.Strings(names)
	return fmt.Sprintf("allowed %s: %s", where, strings.Join(names, ", "))
}

// keyType is the type of a dotted key's value, nil if there is no such key.
func keyType(key string) reflect.Type {
	t := reflect.TypeFor[Config]()
	for _, part := range strings.Split(key, ".") {
		next, ok := fieldType(t, part)
		if !ok {
			return nil
		}
		t = next
	}
	return t
}

func fieldType(t reflect.Type, name string) (reflect.Type, bool) {
	switch t.Kind() {
	case reflect.Map:
		return t.Elem(), true
	case reflect.Struct:
		for i := range t.NumField() {
			if t.Field(i).Tag.Get("toml") == name {
				return t.Field(i).Type, true
			}
		}
	}
	return nil, false
}

// plain rewords what the TOML library says in terms of its Go types.
func plain(text string) string {
	text = strings.TrimPrefix(text, "toml: ")
	kind, _, ok := strings.Cut(strings.TrimPrefix(text, "cannot decode TOML "), " into ")
	if !ok || !strings.HasPrefix(text, "cannot decode TOML ") {
		return text
	}
	want := "a value of another type"
	for _, t := range []struct{ ends, want string }{
		{" of type int", "a whole number"},
		{" of type string", "a string in quotes"}, {" of type []string", "a list of strings"},
	} {
		if strings.HasSuffix(text, t.ends) {
			want = t.want
		}
	}
	return fmt.Sprintf("a TOML %s cannot stand here: write %s", kind, want)
}

// blankValue overwrites the key and value that covers line with spaces, so that line
// numbers stay. It is false if no key and value is there (a mistake of syntax).
func blankValue(data []byte, line int) bool {
	for _, e := range expressions(data) {
		if e.table || line < e.first || line > e.last {
			continue
		}
		for i := e.from; i < e.to; i++ {
			if data[i] != '\n' {
				data[i] = ' '
			}
		}
		return true
	}
	return false
}

// expression is a table header or a key with its value.
type expression struct {
	key         string // dotted, with the table's name
	table       bool
	kind        unstable.Kind // of the value
	from, to    int           // bytes in the file
	first, last int           // lines
}

// expressions lists what stands in a file up to its first mistake of syntax.
func expressions(data []byte) []expression {
	var p unstable.Parser
	p.Reset(data)
	var list []expression
	prefix := ""
	for p.NextExpression() {
		e := p.Expression()
		var parts []string
		from := -1
		for it := e.Key(); it.Next(); {
			if from < 0 {
				from = int(it.Node().Raw.Offset)
			}
			parts = append(parts, string(it.Node().Data))
		}
		key := strings.Join(parts, ".")
		table := e.Kind != unstable.KeyValue
		if table {
			prefix = key + "."
		} else {
			key = prefix + key
		}
		x := expression{key: key, table: table, from: from}
		if !table {
			x.kind = e.Value().Kind
		}
		list = append(list, x)
	}
	bounds(list, data)
	return list
}

// bounds lets every expression reach to the next one.
func bounds(list []expression, data []byte) {
	for i := range list {
		e := &list[i]
		e.to = len(data)
		if i+1 < len(list) {
			e.to = bytes.LastIndexByte(data[:list[i+1].from], '\n') + 1
		}
		e.first = 1 + bytes.Count(data[:e.from], []byte("\n"))
		e.last = e.first + bytes.Count(bytes.TrimRight(data[e.from:e.to], "\n"), []byte("\n"))
	}
}

// lineIndex knows on which line a key stands.
type lineIndex map[string]int

func keyLines(data []byte) lineIndex {
	lines := make(lineIndex)
	for _, e := range expressions(data) {
		if _, ok := lines[e.key]; !ok {
			lines[e.key] = e.first
		}
	}
	return lines
}

// find is the line of a key, or else of the nearest table around it, or else 0.
func (l lineIndex) find(key string) int {
	for key != "" {
		if line, ok := l[key]; ok {
			return line
		}
		i := strings.LastIndexByte(key, '.')
		key = key[:max(i, 0)]
	}
	return 0
}
