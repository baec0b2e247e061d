package lvm2

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// parseGroup reads a text of metadata: the one section that has extents is the group's.
func parseGroup(text string) (*Group, error) {
	top, err := parseText(text)
	if err != nil {
		return nil, err
	}
	if len(top.names) != 1 {
		return nil, fmt.Errorf("the metadata has %d volume groups: want one", len(top.names))
	}
	name := top.names[0]
	s := top.sections[name]
	g := &Group{Name: name, UUID: s.text("id"), parts: map[string]part{}}
	if err := g.read(s); err != nil {
		return nil, fmt.Errorf("volume group %s: %w", name, err)
	}
	return g, nil
}

func (g *Group) read(s *section) (err error) {
	if g.Seqno, err = s.number("seqno"); err != nil {
		return err
	}
	if f := s.text("format"); f != "" && f != "lvm2" {
		return fmt.Errorf("its format is %q: want lvm2", f)
	}
	if g.ExtentSize, err = sectors(s, "extent_size"); err != nil {
		return err
	}
	if g.ExtentSize == 0 {
		return errors.New("its extents have no size")
	}
	pvs := s.child("physical_volumes")
	for _, name := range pvs.names {
		start, err := sectors(pvs.sections[name], "pe_start")
		if err != nil {
			return fmt.Errorf("physical volume %s: %w", name, err)
		}
		g.parts[name] = part{uuid: pvs.sections[name].text("id"), start: start}
	}
	lvs := s.child("logical_volumes")
	for _, name := range lvs.names {
		v, err := g.volume(name, lvs.sections[name])
		if err != nil {
			return fmt.Errorf("logical volume %s: %w", name, err)
		}
		g.Volumes = append(g.Volumes, v)
	}
	slices.SortFunc(g.Volumes, func(a, b *Volume) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// sectors is a number of sectors, in bytes.
func sectors(s *section, key string) (int64, error) {
	n, err := s.number(key)
	if err == nil && (n < 0 || n > math.MaxInt64/sectorSize) {
		err = fmt.Errorf("%s is %d sectors", key, n)
	}
	return n * sectorSize, err
}

// extents is a number of extents, in bytes.
func (g *Group) extents(s *section, key string) (int64, error) {
	n, err := s.number(key)
	if err != nil {
		return 0, err
	}
	return g.extent(n)
}

func (g *Group) extent(n int64) (int64, error) {
	if n < 0 || n > math.MaxInt64/g.ExtentSize {
		return 0, fmt.Errorf("there are no %d extents", n)
	}
	return n * g.ExtentSize, nil
}

func (g *Group) volume(name string, s *section) (*Volume, error) {
	v := &Volume{Name: name, UUID: s.text("id"), Group: g.Name, Tags: s.words("tags")}
	status := s.words("status")
	v.ReadOnly, v.Hidden = !slices.Contains(status, "WRITE"), !slices.Contains(status, "VISIBLE")
	n, err := s.number("segment_count")
	if err != nil {
		return nil, err
	}
	for i := int64(1); i <= n; i++ {
		c := s.sections[fmt.Sprintf("segment%d", i)]
		if c == nil {
			return nil, fmt.Errorf("segment %d of %d is not there", i, n)
		}
		seg, err := g.segment(v, c)
		if err != nil {
			return nil, fmt.Errorf("segment %d: %w", i, err)
		}
		if seg.start != v.Size {
			return nil, fmt.Errorf("segment %d begins at byte %d, where %d is to come", i, seg.start, v.Size)
		}
		if seg.size > math.MaxInt64-v.Size {
			return nil, fmt.Errorf("segment %d goes beyond all bounds", i)
		}
		v.Size += seg.size
		v.segments = append(v.segments, seg)
	}
	return v, nil
}

func (g *Group) segment(v *Volume, s *section) (seg segment, err error) {
	if seg.start, err = g.extents(s, "start_extent"); err != nil {
		return seg, err
	}
	if seg.size, err = g.extents(s, "extent_count"); err != nil {
		return seg, err
	}
	if t := s.text("type"); t != "striped" {
		v.Err = fmt.Errorf("it has a segment of type %q: only linear and striped ones are read", t)
		return seg, nil
	}
	return seg, g.stripes(&seg, s)
}

func (g *Group) stripes(seg *segment, s *section) (err error) {
	count, err := s.number("stripe_count")
	if err != nil {
		return err
	}
	pairs := s.list("stripes")
	if count < 1 || int64(len(pairs)) != 2*count || seg.size%count != 0 {
		return fmt.Errorf("%d stripes, %d of which are told, for %d bytes", count, len(pairs)/2, seg.size)
	}
	seg.stripe = seg.size
	if count > 1 {
		if seg.stripe, err = sectors(s, "stripe_size"); err != nil {
			return err
		}
		if seg.stripe == 0 || seg.size%(seg.stripe*count) != 0 {
			return fmt.Errorf("stripes of %d bytes, for %d bytes", seg.stripe, seg.size)
		}
	}
	for i := 0; i < len(pairs); i += 2 {
		name, isName := pairs[i].(string)
		first, isNumber := pairs[i+1].(int64)
		if !isName || !isNumber {
			return fmt.Errorf("a stripe is %v, %v: want a physical volume and an extent", pairs[i], pairs[i+1])
		}
		offset, err := g.extent(first)
		if err != nil {
			return err
		}
		seg.on = append(seg.on, stripe{part: name, offset: offset})
	}
	return nil
}
