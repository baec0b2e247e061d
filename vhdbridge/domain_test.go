package vhdbridge

import (
	"slices"
	"testing"
	"time"
)

// Retention goes by the times: none is in the future, nor before that of an older state.
func TestTimesOfSnapshotsAreInTheOrderOfTheirStates(t *testing.T) {
	hour := func(n int) time.Time { return time.Date(2024, 1, 1, n, 0, 0, 0, time.UTC) }
	for _, c := range []struct{ says, want []int }{
		{[]int{1, 2, 3}, []int{1, 2, 3}},
		{[]int{5, 2, 3}, []int{2, 2, 3}},
		{[]int{1, 20, 30}, []int{1, 10, 10}},
		{nil, nil},
	} {
		var sets []Set
		for _, h := range c.says {
			sets = append(sets, Set{Time: hour(h)})
		}
		var got []int
		for _, at := range takenAt(sets, hour(10)) {
			got = append(got, at.Hour())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: %v", c.says, got)
		}
	}
}
