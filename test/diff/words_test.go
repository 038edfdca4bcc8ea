package diff

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// flatten adds every field of a message that is set, below name. Numbers of zero are
// fields that are not set.
func flatten(out map[string]string, name string, m proto.Message) {
	flattenMessage(out, name, m.ProtoReflect())
}

func flattenMessage(out map[string]string, name string, m protoreflect.Message) {
	if !m.IsValid() {
		return
	}
	out[name+".{}"] = "set"
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		field := name + "." + string(f.Name())
		switch {
		case f.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				flattenValue(out, field+"."+k.String(), f.MapValue(), v)
				return true
			})
		case f.IsList():
			for i := range v.List().Len() {
				flattenValue(out, fmt.Sprintf("%s[%d]", field, i), f, v.List().Get(i))
			}
		default:
			flattenValue(out, field, f, v)
		}
		return true
	})
}

func flattenValue(out map[string]string, name string, f protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch f.Kind() {
	case protoreflect.MessageKind:
		flattenMessage(out, name, v.Message())
	case protoreflect.EnumKind:
		out[name] = string(f.Enum().Values().ByNumber(v.Enum()).Name())
	case protoreflect.BytesKind:
		out[name] = string(v.Bytes())
	default:
		out[name] = v.String()
	}
}

// words replaces what has to differ between two endpoints: ids, addresses, times, the
// directories of the test.
type words struct {
	pairs []string
}

func newWords(e *endpoint, dir string) *words {
	return &words{pairs: []string{dir, "<case>", e.daemon.Paths.Root, "<root>", e.daemon.Paths.State, "<state>"}}
}

func (w *words) replace(text, word string) { w.pairs = append(w.pairs, text, word) }

var (
	timeField = regexp.MustCompile(`(created_at|started_at|finished_at|timestamp)$`)
	mac       = regexp.MustCompile(`([0-9a-f]{2}:){5}[0-9a-f]{2}`)
	links     = regexp.MustCompile(`veth[0-9a-f]+( veth[0-9a-f]+)*`)
	overlay   = regexp.MustCompile(`mount\..*\.(root|source)$`)
	under     = regexp.MustCompile(`mount\./etc/(hosts|hostname|resolv\.conf)`)
	// pseudo are file systems whose source is a word of the runtime's choice, and whose
	// root is that of the file system.
	pseudo = map[string]bool{"proc": true, "tmpfs": true, "devpts": true, "mqueue": true, "sysfs": true}
)

// plain is what was observed, in words that endpoints share.
func (w *words) plain(out map[string]string) map[string]string {
	r := strings.NewReplacer(w.pairs...)
	all := map[string]string{}
	for name, text := range out {
		text = mac.ReplaceAllString(r.Replace(text), "<mac>")
		text = links.ReplaceAllString(text, "<veth>")
		name = r.Replace(name)
		switch {
		case links.MatchString(name):
			continue // the other ends of the pods that run just now
		case strings.HasPrefix(name, "stats.") && strings.Contains(name, ".writable_layer."):
			continue // measured now and then, by either
		case strings.HasPrefix(name, "stats.") && timeField.MatchString(name):
			continue
		case timeField.MatchString(name) && text != "0":
			text = "<time>"
		case strings.HasPrefix(name, "stats."):
			if strings.Trim(text, "0123456789") == "" {
				continue // which there are, not how large
			}
		case strings.Contains(name, ".namespace."):
			text = namespace(name[strings.LastIndexByte(name, '.')+1:], text)
		case under.MatchString(name) && !strings.HasSuffix(name, ".options") && !strings.HasSuffix(name, ".propagation"):
			continue // the runtime's own file system
		case overlay.MatchString(name):
			kind := out[name[:strings.LastIndexByte(name, '.')]+".type"]
			if !pseudo[kind] {
				continue // where the runtime keeps its files
			}
		case strings.HasSuffix(name, ".super") && out[strings.TrimSuffix(name, ".super")+".type"] == "overlay":
			text = overlayOptions(text)
		}
		all[name] = strings.NewReplacer("\n", `\n`, "\t", `\t`, "\r", `\r`).Replace(text)
	}
	return all
}

// overlayOptions leaves out directories.
func overlayOptions(text string) string {
	var keep []string
	for o := range strings.SplitSeq(text, ",") {
		if !strings.Contains(o, "dir=") && !strings.HasPrefix(o, "lowerdir") {
			keep = append(keep, o)
		}
	}
	return strings.Join(keep, ",")
}

// namespace tells whether a namespace is the host's, where the runtimes run too.
func namespace(kind, link string) string {
	own, err := os.Readlink("/proc/self/ns/" + kind)
	switch {
	case err != nil || strings.HasPrefix(link, "error"):
		return link
	case own == link:
		return "the host's"
	default:
		return "its own"
	}
}
