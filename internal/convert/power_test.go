package convert

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
	"github.com/virt-rotate/virt-rotate/vhdbridge/srtest"
)

const (
	powerDisk  = 64 << 10
	powerBlock = 16 << 10
)

// A step of a simulated migration: what is converted, and by which names.
type powerStep struct {
	layers  []powerLayer // each on the one before
	covered []string     // nodes that are not converted
	exact   bool
}

type powerLayer struct {
	node, name, sum string
	empty           bool
	on              int // which layer it builds on; -1: none
}

// powerSource makes the nodes: two layers of a disk with a snapshot between them, after which
// nothing was written, and one that a second snapshot has.
func powerSource(m *vfstest.Mem, leaf byte) error {
	var err error
	for _, n := range []srtest.Node{
		{Name: "base", Hidden: true, Own: bytes.Repeat([]byte{'a'}, 40<<10)}, {Name: "snap", Parent: "base"}, {Name: "mid", Parent: "base", Hidden: true, Own: bytes.Repeat([]byte{'b'}, 20<<10)},
		{Name: "snap2", Parent: "mid"}, {Name: "again", Parent: "mid"}, {Name: "leaf", Parent: "mid", Own: bytes.Repeat([]byte{leaf}, 10<<10)},
	} {
		n.Size, n.Block = powerDisk, powerBlock
		err = errors.Join(err, srtest.WriteOn(m, "/sr", n))
	}
	return errors.Join(err, m.SyncDir("/sr"))
}

// powerStore knows no links: there are none.
func powerStore(m *vfstest.Mem) *chain.Store {
	s := formats.Store(m, nil)
	s.RealPath = nil
	return s
}

// run converts on the simulated file system.
func (p *powerStep) run(t *testing.T, m *vfstest.Mem) error {
	s := powerStore(m)
	record, err := ReadRecord(m, "/dest")
	if err != nil {
		return err
	}
	all, sources, err := p.conversions(s)
	if err != nil {
		return err
	}
	a := &Again{Store: s, Record: record, Sources: sources, Whole: true, Exact: p.exact, Covered: p.covered}
	if err := a.Plan(all); err != nil {
		return err
	}
	rest := slices.DeleteFunc(slices.Clone(all), a.Kept)
	if err := a.Begin(rest); err != nil {
		return err
	}
	v := &Converter{Store: s, Progress: func(string, int64) (func(int64), func()) { return func(int64) {}, func() {} }}
	v.Naming = func(sound []*Conversion) error { return a.Naming(rest, sound) }
	if err := v.ConvertSound(t.Context(), rest); err != nil {
		return err
	}
	for _, c := range rest {
		err = errors.Join(err, c.Err)
	}
	return errors.Join(err, a.Done(rest))
}

func (p *powerStep) conversions(s *chain.Store) (all []*Conversion, sources map[*Conversion]Source, err error) {
	format, err := formats.Named("qcow2")
	if err != nil {
		return nil, nil, err
	}
	sources = map[*Conversion]Source{}
	for _, l := range p.layers {
		from := "/sr/" + l.node + ".vhd"
		nodes, err := s.Chain(from, "vhd")
		if err != nil {
			return nil, nil, err
		}
		c := &Conversion{Path: "/dest/" + l.name + ".qcow2", Format: format, Maker: format.New(), Nodes: nodes, Own: true}
		c.New.Size = powerDisk
		source := Source{From: from, Sum: l.sum, Empty: l.empty}
		if l.on >= 0 {
			c.On = all[l.on]
			c.New.Backing, c.New.BackingFormat = p.layers[l.on].name+".qcow2", "qcow2"
			if l.empty {
				source.View = sources[c.On].view()
			}
		}
		if err := c.Maker.Set("cluster_size", "4k"); err != nil {
			return nil, nil, err
		}
		sources[c], all = source, append(all, c)
	}
	return all, sources, nil
}

// readsAs is what an image reads as; nil: there is none, or nobody can open it.
func readsAs(m *vfstest.Mem, name string) ([]byte, error) {
	s := powerStore(m)
	nodes, err := s.Chain("/dest/"+name+".qcow2", "qcow2")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	view, err := s.View(nodes)
	if err != nil {
		return nil, err
	}
	b := make([]byte, powerDisk)
	_, err = view.ReadAt(b, 0)
	return b, errors.Join(err, view.Close())
}

// states are what images of the disk read as: base, mid, leaf before and leaf now.
func powerStates(before, now byte) (states [][]byte) {
	b := make([]byte, powerDisk)
	for _, own := range [][]byte{bytes.Repeat([]byte{'a'}, 40<<10), bytes.Repeat([]byte{'b'}, 20<<10), bytes.Repeat([]byte{before}, 10<<10), bytes.Repeat([]byte{now}, 10<<10)} {
		copy(b, own)
		states = append(states, slices.Clone(b))
	}
	return states
}

// A migration is a trial, what the guest and the storage manager do then, and a last run.
type migration struct {
	trial, last powerStep
	meanwhile   func(m *vfstest.Mem) error
	want        []byte            // which state each layer of the last run reads as
	may         map[string][]byte // and what images of those names may, at any moment
}

const powerBefore, powerNow = 'c', 'd' // what the leaf has

func migrations() map[string]migration {
	base := powerLayer{"base", "disk", "base", false, -1}
	mid := powerLayer{"mid", "disk.one", "mid", false, 0}
	other := powerStep{layers: []powerLayer{{"base", "disk-base", "base", false, -1}, {"snap", "snap", "snap", true, 0}, {"mid", "disk-mid", "mid", false, 0}, {"snap2", "snap2", "snap2", true, 2}, {"leaf", "disk", "leaf1", false, 2}}}
	same := powerStep{layers: []powerLayer{base, mid, {"leaf", "disk.two", "leaf1", false, 1}}}
	covered := []string{"/sr/snap.vhd", "/sr/snap2.vhd"}
	return map[string]migration{
		"images are renamed, and the leaf has changed": {other, powerStep{[]powerLayer{base, mid, {"again", "disk.two", "again", true, 1}, {"leaf", "disk.three", "leaf2", false, 2}}, covered, true},
			leafChanges, []byte{0, 1, 1, 3}, map[string][]byte{"disk-base": {0}, "snap": {0}, "disk-mid": {1}, "snap2": {1}, "disk": {0, 2}, "disk.one": {1}, "disk.two": {1}, "disk.three": {2, 3}}},
		"a layer has come between": {other, powerStep{[]powerLayer{base, mid, {"was", "disk.two", "was", false, 1}, {"leaf", "disk.three", "leaf2", false, 2}}, covered, true},
			leafBecomesBase, []byte{0, 1, 2, 3}, map[string][]byte{"disk-base": {0}, "snap": {0}, "disk-mid": {1}, "snap2": {1}, "disk": {0, 2}, "disk.one": {1}, "disk.two": {2}, "disk.three": {3}}},
		"the leaf has changed": {same, powerStep{layers: []powerLayer{base, mid, {"leaf", "disk.two", "leaf2", false, 1}}},
			leafChanges, []byte{0, 1, 3}, map[string][]byte{"disk": {0}, "disk.one": {1}, "disk.two": {2, 3}}},
		"all is made anew": {same, powerStep{layers: []powerLayer{{"base", "disk", "base2", false, -1}, {"mid", "disk.one", "mid2", false, 0}, {"leaf", "disk.two", "leaf2", false, 1}}},
			leafChanges, []byte{0, 1, 3}, map[string][]byte{"disk": {0}, "disk.one": {1}, "disk.two": {2, 3}}},
	}
}

func leafChanges(m *vfstest.Mem) error {
	f, err := m.Lstat("/sr/leaf.vhd")
	if err = errors.Join(err, m.RemoveExact("/sr/leaf.vhd", f.ID)); err != nil {
		return err
	}
	return srtest.WriteOn(m, "/sr", srtest.Node{Name: "leaf", Parent: "mid", Size: powerDisk, Block: powerBlock, Own: bytes.Repeat([]byte{powerNow}, 10<<10)})
}

// leafBecomesBase is what a snapshot does.
func leafBecomesBase(m *vfstest.Mem) error {
	if err := errors.Join(m.Rename("/sr/leaf.vhd", "/sr/was.vhd"), m.SyncDir("/sr")); err != nil {
		return err
	}
	return srtest.WriteOn(m, "/sr", srtest.Node{Name: "leaf", Parent: "was", Size: powerDisk, Block: powerBlock, Own: bytes.Repeat([]byte{powerNow}, 10<<10)})
}

// soundWhatever wants each image that has a name, and can be opened, to read as one of those that
// it may be.
func (g *migration) soundWhatever(m *vfstest.Mem) error {
	states := powerStates(powerBefore, powerNow)
	for name, may := range g.may {
		have, err := readsAs(m, name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if have != nil && !slices.ContainsFunc(may, func(i byte) bool { return bytes.Equal(states[i], have) }) {
			return fmt.Errorf("%s reads as nothing that it may be", name)
		}
	}
	return nil
}

// finished wants the last run's images, and nothing else.
func (g *migration) finished(m *vfstest.Mem) error {
	states := powerStates(powerBefore, powerNow)
	var want []string
	for i, state := range g.want {
		name := g.last.layers[i].name
		have, err := readsAs(m, name)
		if err != nil || !bytes.Equal(have, states[state]) {
			return fmt.Errorf("%s reads otherwise: %w", name, err)
		}
		want = append(want, name+".qcow2")
	}
	names, err := m.ReadDir("/dest")
	names = slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, ".virt-rotate-") })
	slices.Sort(want)
	if err != nil || !slices.Equal(names, want) {
		return fmt.Errorf("files %q: %w", names, err)
	}
	return nil
}

// goesOn is what comes after a crash.
func (g *migration) goesOn(t *testing.T, m *vfstest.Mem) error {
	if err := g.soundWhatever(m); err != nil {
		return err
	}
	if err := g.last.run(t, m); err != nil {
		return err
	}
	return g.finished(m)
}

// Power is lost at every change of the last run, with any of what was not synced surviving; and
// once more while the same command goes on.
func TestPowerLossInALastRunLosesNothing(t *testing.T) {
	t.Parallel()
	for name, g := range migrations() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			origin := vfstest.New()
			must(t, powerSource(origin, powerBefore))
			must(t, g.trial.run(t, origin))
			must(t, g.meanwhile(origin))
			states := 0
			for n := 1; ; n++ {
				m := origin.Crash(1)
				var after []*vfstest.Mem
				m.Before(n, func() {
					for fate := range powerFates(t) {
						after = append(after, m.Crash(fate))
					}
				})
				must(t, g.last.run(t, m))
				if after == nil {
					must(t, g.finished(m))
					break
				}
				for fate, crashed := range after {
					var second *vfstest.Mem
					crashed.Before(1+(7*n+fate)%60, func() { second = crashed.Crash(uint64(fate + 2)) })
					states++
					err := g.goesOn(t, crashed)
					if err == nil && second != nil {
						states++
						err = g.goesOn(t, second)
					}
					if err != nil {
						t.Fatalf("change %d, fate %d: %v\n%s", n, fate, err, strings.Join(m.Log(), "\n"))
					}
				}
			}
			t.Logf("%d states", states)
			if states < 80 {
				t.Error("too few: is a hook broken?")
			}
		})
	}
}

// powerFates is how many ways there are in which what was not synced survives.
func powerFates(t *testing.T) uint64 {
	if text := os.Getenv("VIRT_ROTATE_CRASH_STATES"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		must(t, err)
		return max(2, n/300)
	}
	return 2
}
