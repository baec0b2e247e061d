// Package snapcache keeps in a file what libvirt told of the snapshots of each domain, together with what libvirt's
// own files of them looked like then: while these look the same, and the same process answers, it would tell the same.
//
//	c := snapcache.Open[value](path, snapcache.Source{Dir: dir, Life: life})
//	before := c.Look(domain, names)
//	v, known := c.Known(domain, uuid, before)
//	if !known {
//		v = ask()
//		c.Learn(domain, uuid, before, v)
//	}
//	c.Save(true)
//
// Invariants: what is not proved is not known. libvirt writes the metadata of a snapshot by renaming a new file over
// the old one, so that the directory's times change with each change of it, and even with one that failed halfway; a
// proof has the identity of the directory and of each file. What changed less than vfs.Racy before it was looked at,
// or in the future, proves nothing, since a second change in the same tick could not be seen. No error of the cache's
// own reaches anybody: without it everything is asked for.
package snapcache
