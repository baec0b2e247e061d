package qcow2

import (
	"fmt"
	"slices"
)

// maxShares is how often one L1 table may lead to an L2 table, or one L2 table to
// a cluster. Sound images have each once, and repaired ones some twice; without a
// bound a small file could claim so much that reading it never ends.
const maxShares = 16

// checkL1Shares refuses an L1 table that leads to the same L2 table over and over.
func (m *Image) checkL1Shares() error {
	tables := make([]uint64, 0, len(m.l1))
	for _, e := range m.l1 {
		if e &= entryOffset; e != 0 {
			tables = append(tables, e)
		}
	}
	slices.Sort(tables)
	for i := maxShares; i < len(tables); i++ {
		if tables[i] == tables[i-maxShares] {
			return malformed(int64(m.h.L1TableOffset), "L1 table",
				fmt.Sprintf("more than %d entries lead to the L2 table at %d", maxShares, tables[i]))
		}
	}
	return nil
}

// checkL2Shares refuses an L2 table, at offset at of the file, that leads to the
// same cluster over and over. Clusters in a row are looked at by the first only.
func (m *Image) checkL2Shares(table []byte, at int64) error {
	if m.dataFile {
		return nil
	}
	var seen map[int64]int
	next := int64(0)
	for i := int64(0); i < m.l2Entries(); i++ {
		e := m.entryAt(table, i)
		if (e == entry{}) {
			i = zerosEnd(table, i*m.l2EntryLen())/m.l2EntryLen() - 1
			next = m.cluster()
			continue
		}
		place, n := e.host(), m.cluster()
		if e.compressed() {
			place, n = m.packed(e)
		}
		row := place == next
		next = place + n
		if place == 0 || row {
			continue
		}
		if seen == nil {
			seen = map[int64]int{}
		}
		if seen[place]++; seen[place] > maxShares {
			return malformed(at+i*m.l2EntryLen(), "L2 table",
				fmt.Sprintf("more than %d entries lead to the cluster at %d", maxShares, place))
		}
	}
	return nil
}
