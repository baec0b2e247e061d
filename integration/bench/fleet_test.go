package main

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// Without chance the model is the arithmetic of docs/fleet.md.
func TestANightIsWhatItsArithmeticSays(t *testing.T) {
	for slots, hours := range map[int]float64{1: 11.0, 4: 11.0 * 10.24 / 13.24} { // the storage is full with one: what is saved is the time around
		n := night{Hosts: 50, Guests: 50, Disks: 1, Mean: 2 << 30, Around: 3 * time.Second, Storage: 200 << 20, Host: 200 << 20, Slots: slots}
		merges := 0
		var hoursOf float64
		for seed := range uint64(5) {
			o := n.simulate(rand.New(rand.NewPCG(seed, 0)))
			merges += o.Merged
			hoursOf += o.End.Hours() / 5
		}
		want := hours * 2500 / 3000
		if merges != 5*2500 || math.Abs(hoursOf-want) > 0.05*want {
			t.Errorf("%d slots: %d merges in %.2f h, want %.2f h", slots, merges/5, hoursOf, want)
		}
	}
}

// A host that dies costs its own merges, and a slot for as long as its locks live.
func TestADeadHostHoldsItsSlotForTheLease(t *testing.T) {
	n := night{Hosts: 1, Guests: 10, Disks: 1, Mean: 1 << 20, Around: time.Second, Storage: 1 << 30, Host: 1 << 30, Slots: 1, Dies: 1, Lease: 90 * time.Second}
	o := n.simulate(rand.New(rand.NewPCG(1, 1)))
	if o.Merged+o.Left != 10 || o.Left == 0 || o.End < 90*time.Second || o.End > 110*time.Second {
		t.Errorf("%+v", o)
	}
}
