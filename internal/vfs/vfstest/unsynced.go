package vfstest

import (
	"maps"
	"slices"
)

// sync makes durable what no Sync has failed to write.
func (i *inode) sync() {
	for n, all := range i.unsynced {
		if slices.ContainsFunc(all, isLost) {
			i.syncSectors(n)
			continue
		}
		if p := i.live.pages[n]; p != nil {
			i.disk.pages[n] = p
		} else {
			delete(i.disk.pages, n)
		}
		delete(i.unsynced, n)
	}
	i.disk.size = i.live.size
	if len(i.unsynced) > 0 {
		i.disk.trim()
	}
	i.sizes, i.synced = nil, i.seq
}

func isLost(v version) bool { return v.lost }

// syncSectors writes the sectors of a page that were changed after the failed
// Sync, and forgets their versions.
func (i *inode) syncSectors(n int64) {
	p, all := i.disk.copyOf(n), i.unsynced[n]
	for s := range sectors {
		of := versionsOf(all, s)
		if len(of) == 0 || of[len(of)-1].lost {
			continue
		}
		p.setSector(s, of[len(of)-1].page)
		for j := range all {
			all[j].touched &^= 1 << s
		}
	}
	i.disk.pages[n] = p
}

// versionsOf returns the versions of one sector.
func versionsOf(all []version, s int) []version {
	var of []version
	for _, v := range all {
		if v.touched&(1<<s) != 0 {
			of = append(of, v)
		}
	}
	return of
}

// loseUnsynced is what a failed fsync does: the pages count as clean.
func (i *inode) loseUnsynced() {
	for _, all := range i.unsynced {
		for j := range all {
			all[j].lost = true
		}
	}
}

// afterCrash returns the file as it is found.
func (i *inode) afterCrash(f *fate) *inode {
	next := newInode(i.ino, i.mode)
	next.mtime = i.mtime
	switch f = f.ofFile(); f.odds {
	case 0:
		next.live = i.disk.clone()
	case 1:
		next.live = i.live.clone()
	default:
		next.live = i.disk.clone()
		i.someSurvive(f, &next.live)
	}
	next.disk = next.live.clone()
	return next
}

// someSurvive changes c, which is as disk, to what is found after a crash.
func (i *inode) someSurvive(f *fate, c *content) {
	size, resized := i.crashSize(f)
	for _, n := range slices.Sorted(maps.Keys(i.unsynced)) {
		p := c.copyOf(n)
		for s := range sectors {
			need := crashSector(f, p, s, versionsOf(i.unsynced[n], s), resized)
			size = max(size, min(need, n*pageSize+int64(s+1)*sectorSize))
		}
		c.pages[n] = p
	}
	c.size = size
	c.trim()
}

// crashSize chooses one of the lengths that the file has had since the last
// Sync, and returns the number of the change that made it.
func (i *inode) crashSize(f *fate) (size int64, resized int) {
	if k := f.prefix(len(i.sizes)); k > 0 {
		return i.sizes[k-1].size, i.sizes[k-1].seq
	}
	return i.disk.size, i.synced
}

// crashSector decides on sector s of p, and returns how long the file must be
// for it. A Truncate that has happened has cut what was there before; one that
// has not has cut nothing.
func crashSector(f *fate, p *page, s int, all []version, resized int) (need int64) {
	var open []version
	for _, v := range all {
		switch {
		case !v.cut:
			open = append(open, v)
		case v.seq <= resized:
			p.setSector(s, v.page)
			open = nil
		}
	}
	if len(open) == 0 || !f.survives() {
		return 0
	}
	v := open[f.pick(len(open))]
	p.setSector(s, v.page)
	return v.size
}
