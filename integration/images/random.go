package images

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

const (
	mib        = 1 << 20
	maxSize    = 8 * mib
	sparseSize = 64 * mib
	maxWrites  = 10 // of a layer
)

// A maker makes a random Tree.
type maker struct {
	rng  *rand.Rand
	tree Tree
	kind []kind // of each layer
	ends []int64
}

// A kind is what the steps of a layer depend on.
type kind struct {
	version, cluster int64 // cluster 0: raw
	extended         bool
	narrow           bool // refcounts of 1 bit cannot count snapshots
	size             int64
}

// Random returns a tree of 2 to 8 layers in a row, some with branches, with
// copies that differ, and with a base of its own beside them.
func Random(rng *rand.Rand) Tree {
	m := &maker{rng: rng}
	m.base("base")
	for m.depth(); len(m.tree.Layers) < 2; {
		m.overlay(0)
	}
	if m.chance(30) {
		m.overlay(rng.IntN(len(m.tree.Layers)))
	}
	if m.chance(15) {
		m.base("other/base")
		if m.chance(50) {
			m.overlay(len(m.tree.Layers) - 1)
		}
	}
	if m.chance(25) {
		m.copyOf(rng.IntN(len(m.tree.Layers)))
	}
	return m.tree
}

func (m *maker) chance(percent int) bool { return m.rng.IntN(100) < percent }

// depth builds one layer on the other.
func (m *maker) depth() {
	n := 1 + m.rng.IntN(3)
	if m.chance(20) {
		n = 1 + m.rng.IntN(7)
	}
	for range n {
		m.overlay(len(m.tree.Layers) - 1)
	}
}

func (m *maker) base(name string) {
	k := m.kindOf(m.size())
	l := Layer{Name: name + ".qcow2", Format: "qcow2", On: None, CopyOf: None, Size: k.size}
	if m.chance(25) {
		k = kind{size: k.size}
		l.Name, l.Format = name+".raw", "raw"
	} else {
		l.Options = m.options(&k, false)
	}
	m.add(l, k)
	if l.Format == "qcow2" && !k.narrow && m.chance(25) {
		m.snapshots()
	}
}

// snapshots takes internal snapshots of the last layer and writes on.
func (m *maker) snapshots() {
	at := len(m.tree.Layers) - 1
	for i := range 1 + m.rng.IntN(2) {
		l := &m.tree.Layers[at]
		l.Steps = append(l.Steps, fmt.Sprintf("!snapshot -c s%d *", i+1))
		if k := &m.kind[at]; k.version == 3 && m.chance(20) {
			k.size = m.near(k.size)
			l.Steps = append(l.Steps, fmt.Sprintf("!resize -q --shrink -f qcow2 * %d", k.size))
		}
		l.Steps = append(l.Steps, m.writes(m.kind[at])...)
	}
}

// overlay adds a layer on layer i.
func (m *maker) overlay(i int) {
	n := len(m.tree.Layers)
	size := m.kind[i].size
	l := Layer{Name: fmt.Sprintf("l%d.qcow2", n), Format: "qcow2", On: i, CopyOf: None, Absolute: m.chance(30)}
	if m.chance(45) {
		size = m.near(size)
		l.Size = size
	}
	k := m.kindOf(size)
	l.Options = m.options(&k, true)
	m.add(l, k)
	if !k.narrow && m.chance(2) {
		m.snapshots()
	}
}

// copyOf adds a copy of layer i that differs.
func (m *maker) copyOf(i int) {
	l := m.tree.Layers[i]
	l.Name = fmt.Sprintf("other/copy%d.%s", len(m.tree.Layers), l.Format)
	l.CopyOf, l.Steps, l.Options, l.Size = i, nil, "", 0
	m.add(l, m.kind[i])
}

func (m *maker) add(l Layer, k kind) {
	m.ends = append(m.ends, k.size)
	l.Steps = m.writes(k)
	if k.cluster > 0 && m.chance(6) {
		k.size = m.near(k.size)
		l.Steps = append(l.Steps, fmt.Sprintf("!resize -q --shrink -f qcow2 * %d", k.size))
		l.Steps = append(l.Steps, m.writes(k)...)
	}
	m.tree.Layers, m.kind = append(m.tree.Layers, l), append(m.kind, k)
}

// size is of a base: whole sectors.
func (m *maker) size() int64 {
	switch n := m.rng.IntN(20); {
	case n == 0:
		return m.sectors(sparseSize)
	case n < 6:
		return m.sectors(256 << 10)
	case n < 10:
		return (1 + m.rng.Int64N(8)) * mib
	}
	return m.sectors(maxSize)
}

// near is another size: often in the same cluster.
func (m *maker) near(size int64) int64 {
	switch m.rng.IntN(4) {
	case 0:
		return m.sectors(2 * size)
	case 1:
		return size + m.sectors(64<<10)
	case 2:
		return max(sector, size-m.sectors(64<<10))
	}
	return size + m.sectors(4*mib)
}

// sectors is at least one sector, at most n bytes.
func (m *maker) sectors(n int64) int64 { return sector * (1 + m.rng.Int64N(n/sector)) }

func (m *maker) kindOf(size int64) kind {
	k := kind{version: 3, cluster: 64 << 10, size: size}
	if m.chance(15) {
		k.version = 2
	}
	if m.chance(75) {
		k.cluster = 512 << m.rng.IntN(13)
	}
	if k.version == 3 && m.chance(30) {
		k.extended, k.cluster = true, max(k.cluster, 16<<10)
	}
	return k
}

// options are those of qemu-img create.
func (m *maker) options(k *kind, overlay bool) string {
	o := []string{fmt.Sprintf("cluster_size=%d", k.cluster)}
	if k.version == 2 {
		return strings.Join(append(o, "compat=0.10"), ",")
	}
	if k.extended {
		o = append(o, "extended_l2=on")
	}
	if m.chance(60) {
		order := m.rng.IntN(7)
		k.narrow = order == 0
		o = append(o, fmt.Sprintf("refcount_bits=%d", 1<<order))
	}
	if m.chance(40) {
		o = append(o, "compression_type=zstd")
	}
	if m.chance(25) {
		o = append(o, "lazy_refcounts=on")
	}
	if m.chance(8) && (k.extended || !overlay) {
		o = append(o, "preallocation=metadata")
	}
	return strings.Join(o, ",")
}

// Near is a size for a disk of so many bytes to become, often in the same cluster.
func Near(rng *rand.Rand, size int64) int64 { return (&maker{rng: rng}).near(size) }

// A Write is a command of qemu-io and what it changes, in bytes.
type Write struct {
	Command   string
	Offset, N int64
}

// Writes are for a disk of so many bytes.
func Writes(rng *rand.Rand, size int64) []Write {
	m := &maker{rng: rng, ends: []int64{size}}
	k := kind{version: 3, cluster: 512 << rng.IntN(13), size: size}
	var out []Write
	for range 1 + rng.IntN(4) {
		off, n := m.stretch(k)
		out = append(out, Write{fmt.Sprintf("write -s $P/%s %d %d", patternName(rng.IntN(patternFiles)), off, n), off, n})
	}
	return out
}

// writes are commands of qemu-io for one layer.
func (m *maker) writes(k kind) []string {
	var out []string
	if m.chance(30) { // QEMU compresses only what has no cluster yet
		for range 1 + m.rng.IntN(4) {
			off, n := m.stretch(k)
			if c := m.compressed(k, off, n); c != "" {
				out = append(out, c)
			}
		}
	}
	for range m.rng.IntN(maxWrites + 1) {
		if c := m.write(k); c != "" {
			out = append(out, c)
		}
	}
	return out
}

func (m *maker) write(k kind) string {
	off, n := m.stretch(k)
	switch c := m.rng.IntN(100); {
	case c < 45:
		return fmt.Sprintf("write -s $P/%s %d %d", patternName(m.rng.IntN(patternFiles)), off, n)
	case c < 52:
		return fmt.Sprintf("write -P %d %d %d", m.rng.IntN(3), off, n)
	case c < 65:
		return fmt.Sprintf("write -z %d %d", off, n)
	case c < 75:
		return fmt.Sprintf("write -z -u %d %d", off, n)
	case c < 82:
		return fmt.Sprintf("discard %d %d", off, n)
	}
	return m.compressed(k, off, n)
}

// compressed writes whole clusters, or up to the end of the disk.
func (m *maker) compressed(k kind, off, n int64) string {
	if k.cluster == 0 {
		return ""
	}
	off &^= k.cluster - 1
	n = min((n+k.cluster-1)&^(k.cluster-1), k.size-off)
	return fmt.Sprintf("write -c -s $P/%s %d %d", patternName(m.rng.IntN(patternFiles)), off, n)
}

// stretch is a part of the disk, often with a beginning or an end at a multiple
// of a cluster or at the end of the disk. Small clusters get little data.
func (m *maker) stretch(k kind) (off, n int64) {
	limit := int64(mib)
	if k.cluster > 0 && k.cluster < 4096 {
		limit = 128 << 10
	}
	off, n = m.place(k.size), m.sectors(min(limit, max(sector, k.size)))
	switch m.rng.IntN(6) {
	case 0, 1:
		unit := int64(512) << m.rng.IntN(13)
		if k.cluster > 0 && m.chance(70) {
			unit = k.cluster
		}
		off &^= unit - 1
		n = max(unit, n&^(unit-1))
	case 2:
		off = max(0, k.size-n)
	case 3:
		n = m.sectors(8 << 10)
	}
	return off, min(n, k.size-off, 4*mib)
}

// place is where on the disk; often near its start, so that layers meet.
func (m *maker) place(size int64) int64 {
	switch m.rng.IntN(8) {
	case 0: // where other layers end
		if end := m.ends[m.rng.IntN(len(m.ends))] - m.sectors(64<<10); end > 0 && end < size {
			return end
		}
	case 1, 2, 3:
		size = min(size, mib)
	}
	return m.rng.Int64N(size/sector) * sector
}
