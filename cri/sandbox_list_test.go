package cri

import (
	"errors"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Streamed lists come in parts that are bounded by their count and by their size.
func TestInBatches(t *testing.T) {
	const large = streamBytes / 2
	for name, c := range map[string]struct {
		sizes []int // of the items' IDs, in bytes
		want  []int // items in each part
	}{
		"none":                {nil, nil},
		"one":                 {[]int{1}, []int{1}},
		"a part":              {slices.Repeat([]int{1}, streamBatch), []int{streamBatch}},
		"one more":            {slices.Repeat([]int{1}, streamBatch+1), []int{streamBatch, 1}},
		"many":                {slices.Repeat([]int{1}, 2*streamBatch+50), []int{streamBatch, streamBatch, 50}},
		"large ones":          {slices.Repeat([]int{large}, 3), []int{1, 1, 1}},
		"one above the bound": {[]int{1, streamBytes + 1, 1, 1}, []int{1, 1, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			var items []*v1.PodSandbox
			for _, size := range c.sizes {
				items = append(items, &v1.PodSandbox{Id: strings.Repeat("x", size)})
			}
			var got []int
			var sent []*v1.PodSandbox
			err := inBatches(items, func(part []*v1.PodSandbox) error {
				got, sent = append(got, len(part)), append(sent, part...)
				return nil
			})
			if err != nil || !slices.Equal(got, c.want) || !slices.Equal(sent, items) {
				t.Errorf("parts of %v with %d items in all, %v; want %v", got, len(sent), err, c.want)
			}
		})
	}
	broken := errors.New("broken")
	calls := 0
	err := inBatches(make([]*v1.PodSandbox, 2*streamBatch), func([]*v1.PodSandbox) error { calls++; return broken })
	if !errors.Is(err, broken) || calls != 1 {
		t.Errorf("after the client is gone: %v, %d calls", err, calls)
	}
}
