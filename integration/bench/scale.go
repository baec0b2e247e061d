package main

import (
	"context"
	"fmt"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// guestCounts are the sizes of hosts that runs are measured on.
var guestCounts = []int{1, 5, 20, 40}

// manyGuests measures how a run grows with the guests of a host. They are paused, so that
// what is measured is virt-rotate's and libvirt's work: each takes a snapshot, drops its
// oldest and merges it.
func manyGuests(ctx context.Context, binary string) error {
	fmt.Printf("\n| guests, paused, one small disk each | a run: snapshot, drop, merge for each | for each guest |\n|---|---|---|\n")
	for _, n := range guestCounts {
		err := onDaemon(ctx, binary, func(ctx context.Context, b *bench) error { return b.guests(ctx, n) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) guests(ctx context.Context, n int) error {
	if err := b.writePolicy("g*"); err != nil {
		return err
	}
	for i := range n {
		name := fmt.Sprintf("g%03d", i)
		if err := b.host.Define(ctx, guest.Spec{Name: name}); err != nil {
			return err
		}
		if _, err := b.host.Virsh(ctx, "start", "--paused", name); err != nil {
			return err
		}
	}
	var times []time.Duration
	for i := range 3 + 3 {
		took, _, err := b.timed(ctx, b.binary, "--policy", b.policy, "run", "--now")
		if err != nil {
			return err
		}
		if i >= 3 { // from now on each guest drops one
			times = append(times, took)
		}
	}
	took := median(times)
	fmt.Printf("| %d | %d ms | %.0f ms |\n", n, took.Milliseconds(), float64(took.Microseconds())/1000/float64(n))
	return b.host.KillGuests()
}
