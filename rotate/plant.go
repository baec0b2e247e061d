package rotate

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// diskKeeper and snapshotKeeper name those who keep a layer. No domain name has a slash.
func diskKeeper(domain, target string) string       { return "disk " + domain + "/" + target }
func snapshotKeeper(domain, snapshot string) string { return "snapshot " + domain + "/" + snapshot }

// plant fills the forest with the chains of all domains. What runs comes
// before what is only written down, so that stale metadata cannot contradict it.
func (w *World) plant() {
	w.each(func(d *Domain) {
		for j := range d.Disks {
			if err := w.plantDisk(d, &d.Disks[j]); err != nil && d.Disks[j].Problem == "" {
				d.Disks[j].Problem = err.Error()
			}
			w.keepByHeaders(d, &d.Disks[j])
		}
	})
	w.each(func(d *Domain) {
		for j := range d.Branches {
			w.plantHeaders(&d.Branches[j])
		}
	})
	w.each(func(d *Domain) {
		for _, path := range d.Elsewhere {
			w.Forest.Add(w.key(path), path).Keep("configuration of " + d.Name)
		}
		for j := range d.Snapshots {
			w.plantSnapshot(d, &d.Snapshots[j])
		}
	})
	for i := range w.Domains {
		if d := &w.Domains[i]; d.Problem != "" {
			w.keepNamed(d)
		}
	}
}

// keepByHeaders keeps what the headers of a disk's layers name and its chain does not have:
// a guest that is started anew may be on that. While an intent of ours is open, the headers
// are ahead of libvirt.
func (w *World) keepByHeaders(d *Domain, disk *Disk) {
	if w.Intents[d.UUID] != nil {
		return
	}
	for i := range disk.Chain {
		l := &disk.Chain[i]
		if l.Image == nil || l.Image.Backing == "" || disk.hasFile(l.BackingID) {
			continue
		}
		if name := backingPath(l); name != "" && disk.index(name) < 0 {
			w.Forest.Add(w.key(name), name).Keep("image " + l.Path)
		}
	}
}

// hasFile tells whether that file is in the disk's chain, under whatever name.
func (d *Disk) hasFile(id vfs.ID) bool {
	return id != vfs.ID{} && slices.ContainsFunc(d.Chain, func(l Layer) bool { return l.ID == id })
}

// each does something for each domain; a fault in it is that domain's.
func (w *World) each(do func(*Domain)) {
	for i := range w.Domains {
		d := &w.Domains[i]
		w.faulty(d, Contain(d.Name, func() { do(d) }))
	}
}

// plantHeaders links a branch as the headers of its layers have it: its metadata may
// be stale in the middle of a run.
func (w *World) plantHeaders(branch *Disk) {
	for i := 1; i < len(branch.Chain); i++ {
		below := w.Forest.Add(branch.Chain[i-1].Key(), branch.Chain[i-1].Path)
		above := w.Forest.Add(branch.Chain[i].Key(), branch.Chain[i].Path)
		if above.Parent == nil && above != below {
			_ = w.Forest.Link(above, below) // what contradicts the disks' chains is left out
		}
	}
}

// plantDisk links the chain of a disk. Where others contradict it, all of its layers are
// kept: what builds on what is not known then.
func (w *World) plantDisk(d *Domain, disk *Disk) error {
	var below *chain.Layer
	var contradicted error
	for i := range disk.Chain {
		l := w.Forest.Add(disk.Chain[i].Key(), disk.Chain[i].Path)
		if below != nil {
			if err := w.Forest.Link(l, below); err != nil && contradicted == nil {
				contradicted = err
			}
		}
		below = l
	}
	if contradicted != nil {
		for i := range disk.Chain {
			w.Forest.Find(disk.Chain[i].Key()).Keep(diskKeeper(d.Name, disk.Target))
		}
	}
	if below != nil {
		below.Keep(diskKeeper(d.Name, disk.Target))
		below.Active = below.Active || !disk.ReadOnly
	}
	for _, path := range disk.Inactive {
		if disk.index(path) < 0 {
			w.Forest.Add(w.key(path), path).Keep("persistent configuration of " + d.Name + "/" + disk.Target)
		}
	}
	return contradicted
}

// plantSnapshot notes which layers hold the states of a snapshot.
func (w *World) plantSnapshot(d *Domain, s *Snapshot) {
	for i := range s.Disks {
		sd := &s.Disks[i]
		path := stateLayer(d, sd)
		if path == "" {
			continue
		}
		w.Forest.Add(w.keyOf(d, path), path).Keep(snapshotKeeper(d.Name, s.Name))
		if !d.hasBelow(sd.Overlay) {
			w.plantBranch(d, sd)
		}
	}
}

// plantBranch links the layers below a state that no disk's chain holds any
// more, as after a revert. A link that contradicts the chains is left out:
// the chains are what is true.
func (w *World) plantBranch(d *Domain, sd *SnapshotDisk) {
	for i := 1; i < len(sd.State); i++ {
		below := w.Forest.Add(w.keyOf(d, sd.State[i-1]), sd.State[i-1])
		above := w.Forest.Add(w.keyOf(d, sd.State[i]), sd.State[i])
		if above.Parent == nil && above != below {
			_ = w.Forest.Link(above, below)
		}
	}
}

// stateLayer returns the layer that holds a snapshot's state of one disk: the
// one below the overlay that came into being with it. Metadata may be stale
// after a crash; the chain is not.
func stateLayer(d *Domain, sd *SnapshotDisk) string {
	if sd.Overlay == "" {
		return ""
	}
	for i := range d.Disks {
		if k := d.Disks[i].index(sd.Overlay); k > 0 {
			return d.Disks[i].Chain[k-1].Path
		}
	}
	if len(sd.State) > 0 {
		return sd.State[len(sd.State)-1]
	}
	return ""
}

// uses tells whether path is in the chain of one of the domain's disks.
func (d *Domain) uses(path string) bool {
	for i := range d.Disks {
		if d.Disks[i].index(path) >= 0 {
			return true
		}
	}
	return false
}

// keyOf returns the key under which path is in the forest.
func (w *World) keyOf(d *Domain, path string) string {
	for i := range d.Disks {
		if k := d.Disks[i].index(path); k >= 0 {
			return d.Disks[i].Chain[k].Key()
		}
	}
	return w.key(path)
}

// key returns the key of the file at path, as it was when the host was looked at: path
// itself where there was none, or where the file is another host's.
func (w *World) key(path string) string { return w.place(path).Key }

// there tells whether something was at path then.
func (w *World) there(path string) bool { return w.place(path).There }

// A Place is what a path led to when the host was looked at.
type Place struct {
	Key   string `json:"key"`   // of the file in the forest
	There bool   `json:"there"` // something was there, be it a link that leads nowhere
}

// place looks at a path once, and only while the host is looked at: a decision that was
// taken again would else see another host.
func (w *World) place(path string) Place {
	if p, known := w.Places[path]; known || !w.looking {
		return cmp.Or(p, Place{Key: path})
	}
	p := Place{Key: path}
	if !w.Remote {
		p = lookAt(path)
	}
	w.Places[path] = p
	return p
}

func lookAt(path string) Place {
	_, err := os.Lstat(path)
	p := Place{Key: path, There: !errors.Is(err, fs.ErrNotExist)}
	if info, err := vfs.Stat(path); err == nil {
		p.Key = layerKey(info.ID, path)
	}
	return p
}

// learn looks at every path that a decision on the domain can ask for.
func (w *World) learn(d *Domain) {
	files := slices.Concat(w.Released[d.UUID], w.Useless[d.UUID])
	if in := w.Intents[d.UUID]; in != nil {
		files = append(files, in.files()...)
		for _, m := range in.Merges {
			w.place(m.Base)
		}
	}
	for _, f := range files {
		w.place(f.Path)
	}
	for _, path := range d.named() {
		if path != "" {
			w.place(path)
		}
	}
}
