package qcow2

import "slices"

// Leaked is how many clusters of a prepared image had a refcount above the number of
// references when it was prepared: space that is lost.
func (m *Image) Leaked() int64 {
	if m.w == nil {
		return 0
	}
	return m.w.leaked
}

// Reclaim gives back what Leaked counts. The image must be prepared and not be changed
// yet. That nobody looks for lost data in these clusters, as a repair of lost tables does, is
// up to the caller: a change that was cut off leaves what it had placed, and what it had
// replaced.
func (m *Image) Reclaim() error {
	if err := m.ready(); err != nil || m.w.leaked == 0 {
		return err
	}
	return m.fail(m.reclaim())
}

// reclaim lowers the refcounts first; only then holes are made.
func (m *Image) reclaim() error {
	c, err := examine(m.f)
	if err != nil {
		return err
	}
	free, err := c.unreferenced()
	if err != nil {
		return err
	}
	if _, err := c.mend(RepairLeaks, false); err != nil {
		return err
	}
	if err := m.readAgain(); err != nil {
		return err
	}
	free = slices.DeleteFunc(free, func(cluster int64) bool { return !m.w.refs.isFree(cluster) }) // what the repair has left alone stays
	return m.punch(free)
}

// unreferenced are the clusters that are in use by their refcount alone.
func (c *checker) unreferenced() (clusters []int64, err error) {
	cmp := comparison{
		r: c.f, h: c.h, l: c.l, size: c.size, counts: c.counts,
		unreadable: func(int64, int64, string) error { return nil },
		differ: func(cluster int64, refcount uint64, n clusterCount) error {
			if n.references() == 0 && refcount > 0 {
				clusters = append(clusters, cluster)
			}
			return nil
		},
	}
	err = cmp.run()
	return clusters, err
}

// readAgain forgets what is known of tables and refcounts, which have been changed in the file.
func (m *Image) readAgain() (err error) {
	m.tables, m.raw, m.rawOf = newTableCache(m, cacheBytes), nil, 0
	if m.l1, err = m.readL1(m.h.L1TableOffset, int64(m.h.L1Size)); err != nil {
		return err
	}
	m.w.leaked = 0
	m.w.refs, err = newRefcounts(m)
	return err
}
