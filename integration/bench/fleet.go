package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// A night is what a fleet's hosts merge on one storage of theirs, as a model: each host works on
// its guests one after the other, as many hosts at a time as there are slots, and the storage
// serves all of them together at its bandwidth.
type night struct {
	Hosts, Guests int           // of the storage; guests of each host
	Disks         float64       // of each guest, on average
	Mean          float64       // bytes that a merge moves, on average
	Around        time.Duration // what is done around each merge, with the slot
	Storage, Host float64       // bandwidth, bytes a second: of the storage, and of one host at most
	Slots         int
	Jitter        time.Duration // within which the hosts begin
	Dies          float64       // the share of hosts that die in the middle of a merge
	Lease         time.Duration // for which the storage keeps the locks of a dead host
}

// An outcome is how it ended.
type outcome struct {
	End    time.Duration // of the last merge
	Merged int
	Left   int // merges of hosts that died: for the next night
}

// A job is a merge that has a slot.
type job struct {
	host   int
	around float64 // seconds
	bytes  float64
	dead   bool // its host is: the slot is kept until around is over
}

// simulate plays one night.
func (n *night) simulate(r *rand.Rand) outcome {
	var out outcome
	waiting := make([]int, n.Hosts) // merges to come of each host
	begins := make([]float64, n.Hosts)
	dies := make([]int, n.Hosts) // at which of its merges; -1: never
	for h := range waiting {
		waiting[h] = n.disksOf(r)
		begins[h] = r.Float64() * n.Jitter.Seconds()
		dies[h] = -1
		if r.Float64() < n.Dies {
			dies[h] = r.IntN(waiting[h])
		}
	}
	var active []job
	for now := 0.0; ; {
		active = n.admit(r, now, active, waiting, begins, dies, &out)
		step := n.next(now, active, waiting, begins)
		if math.IsInf(step, 1) {
			out.End = time.Duration(now * float64(time.Second))
			return out
		}
		rate := n.rate(active)
		now += step
		for i := range active {
			active[i].pass(step, rate)
		}
		active = slices.DeleteFunc(active, func(j job) bool { return n.over(&j, &out) })
	}
}

func (n *night) disksOf(r *rand.Rand) int {
	disks := 0
	for range n.Guests {
		disks += int(n.Disks)
		if r.Float64() < n.Disks-math.Floor(n.Disks) {
			disks++
		}
	}
	return disks
}

// size is of a log-normal distribution: most guests write little, and some a lot.
func (n *night) size(r *rand.Rand) float64 {
	const spread = 1.0
	return n.Mean * math.Exp(spread*r.NormFloat64()-spread*spread/2)
}

// admit gives free slots to hosts that wait, which look for one at random times.
func (n *night) admit(r *rand.Rand, now float64, active []job, waiting []int, begins []float64, dies []int, out *outcome) []job {
	for len(active) < n.Slots {
		var ready []int
		for h := range waiting {
			if waiting[h] > 0 && begins[h] <= now && !slices.ContainsFunc(active, func(j job) bool { return j.host == h }) {
				ready = append(ready, h)
			}
		}
		if len(ready) == 0 {
			break
		}
		h := ready[r.IntN(len(ready))]
		j := job{host: h, around: n.Around.Seconds(), bytes: n.size(r)}
		if dies[h] >= 0 && waiting[h]-1 == dies[h] {
			j = job{host: h, around: n.Lease.Seconds(), dead: true}
			out.Left += waiting[h]
			waiting[h] = 0
		} else {
			waiting[h]--
		}
		active = append(active, j)
	}
	return active
}

// rate is what each merge that moves data gets, in bytes a second.
func (n *night) rate(active []job) float64 {
	moving := 0
	for i := range active {
		if active[i].around <= 0 && active[i].bytes > 0 {
			moving++
		}
	}
	return math.Min(n.Host, n.Storage/float64(max(moving, 1)))
}

// next is in how many seconds something changes; infinite where all is done.
func (n *night) next(now float64, active []job, waiting []int, begins []float64) float64 {
	step := math.Inf(1)
	rate := n.rate(active)
	for i := range active {
		if active[i].around > 0 {
			step = min(step, active[i].around)
		} else {
			step = min(step, active[i].bytes/rate)
		}
	}
	for h := range waiting {
		if waiting[h] > 0 && begins[h] > now {
			step = min(step, begins[h]-now)
		}
	}
	return step
}

func (j *job) pass(seconds, rate float64) {
	if j.around > 0 {
		j.around = max(j.around-seconds, 0)
		return
	}
	j.bytes = max(j.bytes-seconds*rate, 0)
}

// over tells whether the job has given its slot back.
func (n *night) over(j *job, out *outcome) bool {
	const rest = 1e-3 // bytes, of rounding
	if j.around > 1e-9 || j.bytes > rest {
		return false
	}
	if !j.dead {
		out.Merged++
	}
	return true
}

// fleetSeed is of all nights that are shown.
const fleetSeed = 19

// fleet shows how long the nights of 1,000 hosts take, of which 50 have one storage together.
func fleet(context.Context, string) error {
	fmt.Printf("\n## Slots\n\n1,000 hosts × 50 guests × 1.2 disks on 20 storages, 2 GiB on average (log-normal), 3 s around each merge, at most 400 MiB/s a host;\n1%% of the hosts die in the middle of a merge, and the storage keeps their locks for 90 s. Seed %d.\n\n", fleetSeed)
	fmt.Println("| storage | slots | a night, median | longest | merged | left for the next night |\n|---|---|---|---|---|---|")
	for _, bandwidth := range []float64{200 << 20, 1 << 30, 4 << 30} {
		for _, slots := range []int{1, 2, 3, 4, 8} {
			n := night{Hosts: 50, Guests: 50, Disks: 1.2, Mean: 2 << 30, Around: 3 * time.Second, Storage: bandwidth, Host: 400 << 20, Slots: slots,
				Jitter: 5 * time.Minute, Dies: 0.01, Lease: 90 * time.Second}
			var ends []time.Duration
			var sum outcome
			for storage := range 20 {
				o := n.simulate(rand.New(rand.NewPCG(fleetSeed, uint64(storage))))
				ends = append(ends, o.End)
				sum.Merged += o.Merged
				sum.Left += o.Left
			}
			slices.Sort(ends)
			fmt.Printf("| %.0f MiB/s | %d | %.1f h | %.1f h | %d | %d |\n", bandwidth/(1<<20), slots, ends[10].Hours(), ends[19].Hours(), sum.Merged, sum.Left)
		}
	}
	return nil
}
