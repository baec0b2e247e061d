package rotate

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// Whatever guests, policies, foreign snapshots and clones there are: each run
// keeps all data, keeps what retention keeps and nothing else, leaves chains
// as short as they can be, and leaves nothing for a second run.
func TestRotationsKeepAllDataAndTheShortestChains(t *testing.T) {
	seeds := []uint64{111, 341} // a layer that is free, but in use, is in the way of a graft
	for seed := range uint64(25) {
		seeds = append(seeds, seed)
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newRandomHost(t, seed)
			for range 8 {
				w.age()
				w.meddle()
				w.rotate(t)
			}
		})
	}
}

// A randomHost is a host that a seed determines.
type randomHost struct {
	*hosttest.Host
	*rand.Rand
	rule  *policy.Rule
	count int // of what was made, for names
}

func newRandomHost(t *testing.T, seed uint64) *randomHost {
	h := &randomHost{Host: hosttest.New(t), Rand: rand.New(rand.NewPCG(seed, 1))}
	h.Writes = rand.New(rand.NewPCG(seed, 2))
	h.Now = hosttest.Hour(0)
	h.rule = rule(h.IntN(4))
	h.rule.Keep.Hourly, h.rule.Keep.Daily = h.IntN(4), h.IntN(3)
	if seed%2 == 1 {
		h.CannotClone, h.rule.Method = nil, policy.MethodGraft
	}
	h.Create("golden.qcow2", nil)
	h.Pictures[h.Img("golden.qcow2")] = h.Read(h.Img("golden.qcow2"))
	for i := range 1 + h.IntN(2) {
		h.addRandom(fmt.Sprintf("web%d", i), h.IntN(2) == 0)
	}
	for i := range h.IntN(3) {
		other := h.addRandom(fmt.Sprintf("other%d", i), true)
		if h.IntN(2) == 0 {
			other.State, other.Cut = host.ShutOff, h.IntN(2) == 0
		}
	}
	return h
}

// addRandom adds a domain with up to three disks, the first of them a clone or not.
func (h *randomHost) addRandom(name string, clone bool) *hosttest.Domain {
	d := h.Add(name)
	d.Agent = h.IntN(2) == 0
	if clone {
		h.Disk(d, "vda", "golden.qcow2", name+".qcow2")
	} else {
		h.Disk(d, "vda", name+".raw")
	}
	for _, target := range []string{"vdb", "vdc"}[:h.IntN(3)] {
		h.Disk(d, target, name+"-"+target+".qcow2")
	}
	return d
}

func (h *randomHost) age() {
	h.Now = h.Now.Add(time.Duration(20+h.IntN(160)) * time.Minute).Truncate(time.Second)
}

// meddle lets others do what they may do between two runs.
func (h *randomHost) meddle() {
	d := h.Guests[h.IntN(len(h.Guests))]
	disk := &d.Disks[h.IntN(len(d.Disks))]
	h.count++
	switch h.IntN(8) {
	case 0:
		if d.State == host.Running {
			h.Freeze(d, fmt.Sprintf("mine%d", h.count), "", h.Now)
		}
	case 1:
		if k := h.IntN(len(disk.Chain)); k < len(disk.Chain)-1 && disk.Chain[k].Format != "raw" {
			h.Create(fmt.Sprintf("far/picture%d.qcow2", h.count), disk.Chain[:k+1])
			path := h.Img(fmt.Sprintf("far/picture%d.qcow2", h.count))
			h.Pictures[path] = h.Read(path)
		}
	case 2:
		for path := range h.Pictures {
			if path == h.Img("golden.qcow2") {
				continue
			}
			hosttest.Must(os.Remove(path))
			delete(h.Pictures, path)
			return
		}
	}
}

func (h *randomHost) rotate(t *testing.T) {
	t.Helper()
	want := map[string][]string{}
	for _, d := range h.Guests {
		want[d.Name] = h.expected(d)
	}
	r := rotator(h.Host, h.rule)
	r.Observer.Scan = []string{h.Img("far/")}
	for name, p := range runAll(h.Host, t, r) {
		if p.Error != "" || len(p.Refused) > 0 {
			t.Fatalf("%s: %s %+v", name, p.Error, p.Refused)
		}
	}
	checkDone(h.Host, t)
	for _, d := range h.Guests {
		if have := snapshotNames(d); !slices.Equal(have, want[d.Name]) {
			t.Fatalf("%s has %v, want %v (keep %+v)", d.Name, have, want[d.Name], h.rule.Keep)
		}
		h.checkShortest(t, d)
	}
	for name, p := range runAll(h.Host, t, r) {
		if len(p.Steps) > 0 {
			t.Fatalf("a second run of %s: %v", name, lines(h.Host, t, p.Steps))
		}
	}
}

func snapshotNames(d *hosttest.Domain) []string {
	names := []string{}
	for i := range d.Snapshots {
		names = append(names, d.Snapshots[i].Name)
	}
	return names
}

// expected lists the snapshots that d must have after a run.
func (h *randomHost) expected(d *hosttest.Domain) []string {
	names := snapshotNames(d)
	if !strings.HasPrefix(d.Name, "web") {
		return names
	}
	var taken []policy.Snapshot
	for i := range d.Snapshots {
		if s := &d.Snapshots[i]; strings.HasPrefix(s.Name, "p-") {
			taken = append(taken, policy.Snapshot{Name: s.Name, Time: s.Time})
		}
	}
	due := len(taken) == 0 || h.rule.Due(taken[len(taken)-1].Time, h.Now)
	if due && !h.rule.Keep.None() {
		taken = append(taken, policy.Snapshot{Name: "p-" + h.Now.Format(host.Stamp), Time: h.Now})
		names = append(names, taken[len(taken)-1].Name)
	}
	for _, v := range h.rule.Keep.Apply(taken, h.Now) {
		if !v.Keep {
			names = slices.DeleteFunc(names, func(n string) bool { return n == v.Name })
		}
	}
	return names
}

// checkShortest sees that no layer of ours is left that could be merged.
func (h *randomHost) checkShortest(t *testing.T, d *hosttest.Domain) {
	t.Helper()
	if !strings.HasPrefix(d.Name, "web") {
		return
	}
	users := h.users(t)
	for i := range d.Disks {
		chain := host.Paths(d.Disks[i].Chain)
		for k := 1; k < len(chain); k++ {
			above := ""
			if k+1 < len(chain) {
				above = chain[k+1]
			}
			held := tookWith(d, chain[k], false) || tookWith(d, above, true) || madeByOthers(d, chain[k])
			if !held && users[chain[k-1]] == 1 && users[chain[k]] <= 1 {
				t.Fatalf("%s: %s could be merged: chain %v", d.Name, h.Brief(chain[k]), h.Short(chain))
			}
		}
	}
}

// users counts for each image the images that build on it.
func (h *randomHost) users(t *testing.T) map[string]int {
	users := map[string]int{}
	for _, path := range filesOf(h.Host, t) {
		if i := h.Load(path); i.Backing != "" {
			users[i.Backing]++
		}
	}
	return users
}

// tookWith tells whether a snapshot, or a foreign one, came into being with the overlay.
func tookWith(d *hosttest.Domain, overlay string, foreign bool) bool {
	return overlay != "" && slices.ContainsFunc(d.Snapshots, func(s host.Snapshot) bool {
		return (!foreign || !strings.HasPrefix(s.Name, "p-")) && slices.ContainsFunc(s.Disks, func(sd host.SnapshotDisk) bool { return sd.Overlay == overlay })
	})
}

func madeByOthers(d *hosttest.Domain, path string) bool {
	return !strings.Contains(path, ".p-")
}

// A chain with nothing foreign in it has one layer more than snapshots.
func TestAChainHasOneLayerMoreThanKeptSnapshots(t *testing.T) {
	h := hosttest.New(t)
	h.Writes = rand.New(rand.NewPCG(1, 1))
	web := h.Add("web")
	one()(h, web)
	r := rotator(h, rule(3))
	for n := range 10 {
		h.Now = hosttest.Hour(n)
		runAll(h, t, r)
		checkDone(h, t)
		if have, want := len(web.Disks[0].Chain), min(n+1, 3)+1; have != want {
			t.Fatalf("run %d: %d layers, want %d", n, have, want)
		}
	}
}
