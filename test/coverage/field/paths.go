package field

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Service is one of the CRI's.
type method = protoreflect.MethodDescriptor

func methods() (all []method) {
	services := v1.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services()
	for i := range services.Len() {
		list := services.Get(i).Methods()
		for j := range list.Len() {
			all = append(all, list.Get(j))
		}
	}
	return all
}

// Requests are the paths of all fields of all requests that have no fields of their own,
// sorted.
func Requests() []string {
	var all []string
	for _, m := range methods() {
		all = append(all, leaves(string(m.Input().Name()), m.Input())...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func leaves(path string, d protoreflect.MessageDescriptor) []string {
	var all []string
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		name := path + "." + string(f.Name())
		if inner := message(f); inner != nil {
			all = append(all, leaves(name, inner)...)
		} else {
			all = append(all, name)
		}
	}
	return all
}

// Answers are all fields of all messages that answers are made of, sorted; those that hold
// messages too.
func Answers() []string {
	seen := map[protoreflect.FullName]bool{}
	var all []string
	var visit func(d protoreflect.MessageDescriptor)
	visit = func(d protoreflect.MessageDescriptor) {
		if seen[d.FullName()] {
			return
		}
		seen[d.FullName()] = true
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			all = append(all, answer(d, f))
			if inner := message(f); inner != nil {
				visit(inner)
			}
		}
	}
	for _, m := range methods() {
		visit(m.Output())
	}
	slices.Sort(all)
	return all
}

func answer(d protoreflect.MessageDescriptor, f protoreflect.FieldDescriptor) string {
	return string(d.Name()) + "." + string(f.Name())
}

// message is what a field holds, if that has fields that are worth a name: nil for scalars,
// maps and wrappers.
func message(f protoreflect.FieldDescriptor) protoreflect.MessageDescriptor {
	if f.IsMap() || f.Message() == nil || isWrapper(f.Message()) {
		return nil
	}
	return f.Message()
}

// isWrapper: the CRI's end in Value and have one field.
func isWrapper(d protoreflect.MessageDescriptor) bool {
	return d.Fields().Len() == 1 && d.Fields().Get(0).Message() == nil && strings.HasSuffix(string(d.Name()), "Value")
}

// Sent are the paths of the fields that a request has with another value than the default,
// those that hold messages too.
func Sent(request protoreflect.Message) map[string]bool {
	out := map[string]bool{}
	sent(string(request.Descriptor().Name()), request, out)
	return out
}

func sent(path string, m protoreflect.Message, out map[string]bool) {
	each(m, func(f protoreflect.FieldDescriptor, inner []protoreflect.Message) {
		name := path + "." + string(f.Name())
		out[name] = true
		for _, i := range inner {
			sent(name, i, out)
		}
	})
}

// Answered are the fields that an answer has with another value than the default.
func Answered(m protoreflect.Message) map[string]bool {
	out := map[string]bool{}
	answered(m, out)
	return out
}

func answered(m protoreflect.Message, out map[string]bool) {
	each(m, func(f protoreflect.FieldDescriptor, inner []protoreflect.Message) {
		out[answer(m.Descriptor(), f)] = true
		for _, i := range inner {
			answered(i, out)
		}
	})
}

// each calls visit with every field that is set, and the messages in it.
func each(m protoreflect.Message, visit func(protoreflect.FieldDescriptor, []protoreflect.Message)) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		var inner []protoreflect.Message
		switch {
		case message(f) == nil:
		case f.IsList():
			for i := range v.List().Len() {
				inner = append(inner, v.List().Get(i).Message())
			}
		default:
			inner = append(inner, v.Message())
		}
		visit(f, inner)
		return true
	})
}
