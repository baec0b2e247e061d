package vhdbridge

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A Set is one snapshot of a guest: what was taken of its disks at one moment.
type Set struct {
	Name  string    // what XenServer calls it: any text; "": not known
	Time  time.Time // when it was taken
	Taken []*Taken  // one for each disk; nil: it has none of that disk
}

// Sets are the snapshots of several disks, put together.
type Sets struct {
	Sets   []Set // the oldest first
	Beside []Beside
	// Loose are how many snapshots of each VDI are in no set, since nothing tells which of the
	// other disks' belong to them.
	Loose map[string]int
}

// together is how far apart the snapshots of the disks of one snapshot of a guest may be
// dated, where nothing but their dates tells: xapi takes one disk after the other.
const together = 5 * time.Second

// SetsOf puts the snapshots of disks together that belong to one snapshot of the guest: by
// what the pool says of it, else by their dates. Of one disk each is a set of its own.
func (r *Repository) SetsOf(vdis []string) (*Sets, error) {
	s := &setMaker{disks: len(vdis), Sets: Sets{Loose: map[string]int{}}, byKey: map[string]*Set{}}
	s.place = make([]map[*Node]int, len(vdis))
	for i, vdi := range vdis {
		taken, beside, err := r.Snapshots(vdi)
		if err != nil {
			return nil, err
		}
		s.Beside = append(s.Beside, beside...)
		s.place[i] = map[*Node]int{}
		for at := range taken {
			s.place[i][taken[at].Node] = s.placeOf(taken, at)
			s.put(i, vdi, &taken[at])
		}
	}
	for _, set := range s.sets {
		s.Sets.Sets = append(s.Sets.Sets, *set)
	}
	slices.SortStableFunc(s.Sets.Sets, s.compare)
	return &s.Sets, s.check()
}

type setMaker struct {
	Sets
	disks int
	sets  []*Set
	byKey map[string]*Set
	place []map[*Node]int // of each disk: where on its chain the state of a snapshot is
}

// placeOf numbers the states of a disk; those of the same content have one number.
func (s *setMaker) placeOf(taken []Taken, at int) int {
	n := 0
	for i := 1; i <= at; i++ {
		if taken[i].State != taken[i-1].State {
			n++
		}
	}
	return n
}

// put finds the set of a snapshot of the i-th disk.
func (s *setMaker) put(i int, vdi string, t *Taken) {
	key, known := "", t.Node.Known
	if known != nil && known.Guest.Snapshot != "" {
		key = known.Guest.Snapshot
	}
	set := s.byKey[key]
	switch {
	case key == "" && s.disks > 1 && (known == nil || known.SnapshotTime.IsZero()):
		s.Loose[vdi]++
		return
	case key == "" && s.disks > 1:
		set = s.near(i, t.At())
	case key == "":
		set = nil
	}
	if set == nil || set.Taken[i] != nil {
		set = &Set{Time: t.At(), Taken: make([]*Taken, s.disks)}
		s.sets = append(s.sets, set)
		s.byKey[key] = set
	}
	set.Taken[i] = t
	if known != nil {
		set.Name = cmp.Or(set.Name, known.Guest.SnapshotName)
	}
	if t.At().Before(set.Time) {
		set.Time = t.At()
	}
}

// near is the set of that time that has nothing of the i-th disk yet, and of which nothing
// else is known.
func (s *setMaker) near(i int, at time.Time) *Set {
	for _, set := range s.sets {
		if set.Taken[i] == nil && set.Name == "" && set.Time.Sub(at).Abs() <= together {
			return set
		}
	}
	return nil
}

// compare orders sets by the first disk that both have, where its states differ; else by time.
func (s *setMaker) compare(a, b Set) int {
	for i := range s.disks {
		if a.Taken[i] == nil || b.Taken[i] == nil {
			continue
		}
		if c := cmp.Compare(s.place[i][a.Taken[i].Node], s.place[i][b.Taken[i].Node]); c != 0 {
			return c
		}
	}
	return a.Time.Compare(b.Time)
}

// errOrder says that snapshots were taken in another order of one disk than of another.
var errOrder = errors.New("the snapshots of its disks are in different orders on their chains: leave them out with --no-snapshots")

func (s *setMaker) check() error {
	for i := range s.disks {
		last := -1
		for _, set := range s.Sets.Sets {
			if set.Taken[i] == nil {
				continue
			}
			at := s.place[i][set.Taken[i].Node]
			if at < last {
				return fmt.Errorf("%s: %w", set.Taken[i].Node.Name, errOrder)
			}
			last = at
		}
	}
	return nil
}
