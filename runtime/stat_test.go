package runtime

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// TestFiguresOfAGuestAreBounded: what measures itself could otherwise make much of little.
func TestFiguresOfAGuestAreBounded(t *testing.T) {
	two := Stat{IO: IOStats{{Major: 254, Device: "/dev/vda", ReadBytes: 7}, {Minor: 1}}, Hugetlb: HugetlbStats{{PageSize: "2MB", Usage: new(uint64(4))}}}
	text, err := json.Marshal(two)
	if err != nil {
		t.Fatal(err)
	}
	var s Stat
	if err := json.Unmarshal(text, &s); err != nil || !reflect.DeepEqual(s, two) {
		t.Errorf("%+v, %v", s, err)
	}
	for field, limit := range map[string]int{"IO": maxIOStats, "Hugetlb": maxHugetlbStats} {
		list := func(n int) string {
			return `{"` + field + `":[` + strings.TrimSuffix(strings.Repeat("{},", n), ",") + "]}"
		}
		if err := json.Unmarshal([]byte(list(limit)), new(Stat)); err != nil {
			t.Errorf("%s: %v", field, err)
		}
		if err := json.Unmarshal([]byte(list(limit+1)), new(Stat)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s beyond the bound: %v", field, err)
		}
		if err := json.Unmarshal([]byte(`{"`+field+`":{}}`), new(Stat)); err == nil {
			t.Errorf("%s that is no list is taken", field)
		}
	}
}
