package rotate

import (
	"sync"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A latestView is the last view of the whole host that the run of any domain has had.
type latestView struct {
	mu   sync.Mutex // guards all below; held while the host is looked at, so that one looks for all
	w    *observe.World
	seen time.Time // before it was looked at
}

// within returns a view that is no older than age, when it was taken, and whether it was
// taken just now by look.
func (v *latestView) within(clock func() time.Time, age time.Duration, look func() (*observe.World, error)) (w *observe.World, seen time.Time, mine bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := clock()
	if v.w != nil && age > 0 && fresh(v.seen, now, age) {
		return v.w, v.seen, false, nil
	}
	if w, err = look(); err != nil {
		return nil, time.Time{}, true, err
	}
	v.w, v.seen = w, now
	return w, now, true, nil
}

// fresh tells whether what was seen then is no older than age. A clock that went back makes
// everything old.
func fresh(seen, now time.Time, age time.Duration) bool {
	return now.Sub(seen) <= age && !now.Before(seen)
}
