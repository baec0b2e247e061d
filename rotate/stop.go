package rotate

import (
	"context"
	"fmt"
	"time"
)

// Stop shuts a guest down, by ACPI or, with force, by pulling the plug after that was
// in vain.
func (r *Rotator) Stop(ctx context.Context, domain string, force bool, patience time.Duration) error {
	host := r.Host
	if err := host.Shutdown(ctx, domain, false); err != nil && !force {
		return err
	}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if active, err := host.Active(ctx, domain); err != nil || !active {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	if !force {
		return fmt.Errorf("%s: the guest did not shut down within %s; --force pulls the plug", domain, patience)
	}
	return host.Shutdown(ctx, domain, true)
}
