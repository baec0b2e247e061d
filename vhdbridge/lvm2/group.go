package lvm2

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// A PV is an open physical volume.
type PV struct {
	Name string // of the device or file, for what is said of it
	UUID string // as LVM writes it, with dashes
	r    io.ReaderAt
	size int64

	group *Group // as its own metadata has it; nil: it has none
}

// Open reads the label and the metadata of a physical volume, of size bytes. Errors are
// ErrNoLabel, *DamagedError, or of reading. A physical volume without metadata is one of a
// group all the same: others tell which.
func Open(name string, r io.ReaderAt, size int64) (*PV, error) {
	l, err := readLabel(r, size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	pv := &PV{Name: name, UUID: dashed(l.uuid), r: r, size: size}
	var failed []error
	for _, a := range l.areas {
		g, err := readGroup(r, a)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
		} else if g != nil && (pv.group == nil || g.Seqno > pv.group.Seqno) {
			pv.group = g
		}
	}
	if pv.group == nil && len(failed) > 0 {
		return nil, errors.Join(failed...)
	}
	return pv, nil
}

func readGroup(r io.ReaderAt, a area) (*Group, error) {
	text, err := readText(r, a)
	if err != nil || text == "" {
		return nil, err
	}
	return parseGroup(text)
}

// dashed writes a UUID of 32 characters as LVM does.
func dashed(uuid string) string {
	var parts []string
	for _, n := range []int{6, 4, 4, 4, 4, 4, 6} {
		if len(uuid) < n {
			return uuid
		}
		parts, uuid = append(parts, uuid[:n]), uuid[n:]
	}
	return strings.Join(parts, "-")
}

// A Group is a volume group.
type Group struct {
	Name, UUID string
	Seqno      int64     // which version of the metadata it is
	ExtentSize int64     // bytes
	Volumes    []*Volume // by name, those that others are made of included
	Missing    []string  // UUIDs of physical volumes that were not given
	Stale      []string  // names of physical volumes that have older metadata

	parts map[string]part // by the names that segments have for them
	twice []error         // physical volumes that were given more than once
}

// A part is one physical volume of a group.
type part struct {
	uuid  string
	start int64 // bytes: where its first extent is
	pv    *PV   // nil: not given
}

// A Volume is a logical volume. It is read as an io.ReaderAt; nothing can be written.
type Volume struct {
	Name, UUID string
	Group      string
	Tags       []string
	Size       int64 // bytes
	ReadOnly   bool
	Hidden     bool // it is part of another one, and no device of its own
	// Err says why it cannot be read: a segment of a kind that is not read here, a physical
	// volume that was not given, or that ends too early.
	Err error

	segments []segment
}

// A segment is a stretch of a logical volume.
type segment struct {
	start, size int64 // bytes
	stripe      int64 // bytes of one stripe before the next one's turn
	on          []stripe
}

type stripe struct {
	part   string
	offset int64 // bytes, from the part's start
	pv     *PV
}

// Groups puts physical volumes together, by the newest metadata that any of them has: a
// device that was away while a group was changed has older one, which is noted. Physical
// volumes that no metadata names are an error, ErrNoMetadata, as is one that is given twice.
func Groups(pvs ...*PV) ([]*Group, error) {
	var groups []*Group
	for _, pv := range pvs {
		if pv.group == nil {
			continue
		}
		i := slices.IndexFunc(groups, func(g *Group) bool { return g.UUID == pv.group.UUID })
		switch {
		case i < 0:
			groups = append(groups, pv.group)
		case pv.group.Seqno > groups[i].Seqno:
			groups[i] = pv.group
		}
	}
	for _, pv := range pvs {
		if !slices.ContainsFunc(groups, func(g *Group) bool { return g.take(pv) }) {
			return nil, fmt.Errorf("%s: %w", pv.Name, ErrNoMetadata)
		}
	}
	for _, g := range groups {
		if err := errors.Join(g.twice...); err != nil {
			return nil, err
		}
		g.assemble()
	}
	slices.SortFunc(groups, func(a, b *Group) int { return strings.Compare(a.Name, b.Name) })
	return groups, nil
}

// take tells whether the physical volume is one of the group.
func (g *Group) take(pv *PV) bool {
	for name, p := range g.parts {
		if p.uuid == pv.UUID {
			if p.pv != nil {
				g.twice = append(g.twice, fmt.Errorf("%s and %s are the same physical volume, %s, or copies of it: give one of them", p.pv.Name, pv.Name, pv.UUID))
			}
			p.pv = pv
			g.parts[name] = p
			if pv.group != nil && pv.group.Seqno < g.Seqno {
				g.Stale = append(g.Stale, pv.Name)
			}
			return true
		}
	}
	return false
}

// assemble has segments know where to read.
func (g *Group) assemble() {
	for _, p := range g.parts {
		if p.pv == nil {
			g.Missing = append(g.Missing, p.uuid)
		}
	}
	slices.Sort(g.Missing)
	for _, v := range g.Volumes {
		for i := range v.segments {
			if err := g.locate(&v.segments[i]); err != nil && v.Err == nil {
				v.Err = err
			}
		}
	}
}

func (g *Group) locate(s *segment) error {
	each := s.size / int64(max(len(s.on), 1))
	for i := range s.on {
		t := &s.on[i]
		p, known := g.parts[t.part]
		switch {
		case !known:
			return fmt.Errorf("it lies on %q, which is no physical volume of the group", t.part)
		case p.pv == nil:
			return fmt.Errorf("it lies on the physical volume %s, which was not given", p.uuid)
		case t.offset < 0 || p.start+t.offset+each > p.pv.size:
			return fmt.Errorf("it goes on to byte %d of %s, which has %d: the copy is not whole", p.start+t.offset+each, p.pv.Name, p.pv.size)
		}
		t.offset, t.pv = p.start+t.offset, p.pv
	}
	return nil
}
