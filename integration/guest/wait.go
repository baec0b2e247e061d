package guest

import (
	"context"
	"fmt"
	"time"
)

// Patience is how long this package and the tests wait for anything that must come. It
// bounds a hang and measures no speed: on a machine that has much else to do, what
// takes a second elsewhere takes minutes.
const Patience = 10 * time.Minute

// maxPause is between two looks, at most: each look may be a process.
const maxPause = 50 * time.Millisecond

// Await returns once there reports true, or with its error, or after Patience with one
// that says what did not come. It looks the less often the longer it waits.
func Await(ctx context.Context, what string, there func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, maxPause) {
		if done, err := there(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for %s: %w", what, ctx.Err())
		case <-time.After(pause):
		}
	}
}
