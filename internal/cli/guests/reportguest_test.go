package guests

import (
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
)

// A page looks some snapshots ahead, and a day; but not at thousands of a rule that takes one each second.
func TestAPageLooksAheadByTheRule(t *testing.T) {
	for every, want := range map[time.Duration]time.Duration{
		time.Second: 100 * time.Second, 15 * time.Minute: 24 * time.Hour, time.Hour: 24 * time.Hour, 24 * time.Hour: 72 * time.Hour, 30 * 24 * time.Hour: 7 * 24 * time.Hour,
	} {
		if got := horizon(&policy.Rule{Every: every, Keep: policy.Keep{Last: 3}}); got != want {
			t.Errorf("every %v: %v, want %v", every, got, want)
		}
	}
}
