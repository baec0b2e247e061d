package qcow2

import "github.com/virt-rotate/virt-rotate/internal/chain"

// Preallocated tells whether the file has room for clearly fewer clusters than
// the refcounts count. Data that was never written then lies in holes of the
// file. The bounds are those of QEMU.
func (m *Image) Preallocated() (bool, error) {
	info, err := m.f.Stat()
	if err != nil {
		return false, err
	}
	have := info.Allocated >> m.clusterBits
	clusters := (info.Size + m.cluster() - 1) >> m.clusterBits
	enough := max(have*10/9, have+2)
	if clusters < enough {
		return false, nil
	}
	return m.countUsed(clusters, enough)
}

// countUsed tells whether at least enough of the first clusters are in use.
func (m *Image) countUsed(clusters, enough int64) (bool, error) {
	per, b := m.refEntries(), make([]byte, m.cluster())
	for i := int64(0); i*per < clusters; i++ {
		block, err := blockAt(m.f, m.h, m.size, i)
		if err != nil {
			return false, err
		}
		if block == 0 || badBlock(block, m.layout) != "" {
			continue
		}
		if err := readPadded(m.f, b, block, m.size); err != nil {
			return false, err
		}
		for k := range min(per, clusters-i*per) {
			if getRef(b, m.refOrder, k) != 0 {
				enough--
			}
		}
		if enough <= 0 {
			return true, nil
		}
	}
	return false, nil
}

// Room tells where the host file has room for the hole at off, or NoHost, and for
// how many bytes, before end, that goes on: unallocated subclusters of a cluster
// that is allocated have room.
func (m *Image) Room(off, end int64) (host, n int64, err error) {
	if !m.extended {
		return chain.NoHost, end - off, nil
	}
	table, err := m.l2(off)
	if err != nil {
		return chain.NoHost, 0, err
	}
	if table == nil {
		return chain.NoHost, min(end, (off/m.l2Covers()+1)*m.l2Covers()) - off, nil
	}
	e, err := m.entryIn(table, off)
	in := off & (m.cluster() - 1)
	n = min(end-off, m.cluster()-in)
	if err != nil || !m.allocated(e) {
		return chain.NoHost, n, err
	}
	return e.host() + in, n, nil
}
