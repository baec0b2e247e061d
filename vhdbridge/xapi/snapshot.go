package xapi

import (
	"context"
	"slices"
)

// Snapshot has a snapshot of a guest taken, and returns its reference. It is the only call
// that changes anything; whoever asks for it has to see to its end.
func (c *Client) Snapshot(ctx context.Context, vm *VM, name string) (ref string, err error) {
	return ref, c.hosted(c.call(ctx, "VM.snapshot", &ref, vm.Ref, name))
}

// VM is the one of that reference or UUID, a snapshot or not; nil: there is none.
func (v *Inventory) VM(name string) *VM {
	i := slices.IndexFunc(v.VMs, func(m *VM) bool { return m.Ref == name || m.UUID == name })
	if i < 0 {
		return nil
	}
	return v.VMs[i]
}
