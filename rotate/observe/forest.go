package observe

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// DiskKeeper and snapshotKeeper name those who keep a layer. No domain name has a slash.
func DiskKeeper(domain, target string) string { return "disk " + domain + "/" + target }

// SnapshotKeeper is how the forest names a snapshot that keeps a layer.
func SnapshotKeeper(domain, snapshot string) string { return "snapshot " + domain + "/" + snapshot }

// plant fills the forest with the chains of all domains. What runs comes
// before what is only written down, so that stale metadata cannot contradict it.
func (w *World) plant() {
	w.each(func(d *host.Domain) {
		for j := range d.Disks {
			if err := w.plantDisk(d, &d.Disks[j]); err != nil && d.Disks[j].Problem == "" {
				d.Disks[j].Problem = err.Error()
			}
			w.keepByHeaders(d, &d.Disks[j])
		}
	})
	w.each(func(d *host.Domain) {
		for j := range d.Branches {
			w.plantHeaders(&d.Branches[j])
		}
	})
	w.each(func(d *host.Domain) {
		for _, path := range d.Elsewhere {
			w.Forest.Add(w.Key(path), path).Keep("configuration of " + d.Name)
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
func (w *World) keepByHeaders(d *host.Domain, disk *host.Disk) {
	if w.Intents[d.UUID] != nil {
		return
	}
	for i := range disk.Chain {
		l := &disk.Chain[i]
		if l.Image == nil || l.Image.Backing == "" || disk.HasFile(l.BackingID) {
			continue
		}
		if name := host.BackingPath(l); name != "" && disk.Index(name) < 0 {
			w.Forest.Add(w.Key(name), name).Keep("image " + l.Path)
		}
	}
}

// each does something for each domain; a fault in it is that domain's.
func (w *World) each(do func(*host.Domain)) {
	for i := range w.Domains {
		d := &w.Domains[i]
		w.faulty(d, host.Contain(d.Name, func() { do(d) }))
	}
}

// plantHeaders links a branch as the headers of its layers have it: its metadata may
// be stale in the middle of a run.
func (w *World) plantHeaders(branch *host.Disk) {
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
func (w *World) plantDisk(d *host.Domain, disk *host.Disk) error {
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
			w.Forest.Find(disk.Chain[i].Key()).Keep(DiskKeeper(d.Name, disk.Target))
		}
	}
	if below != nil {
		below.Keep(DiskKeeper(d.Name, disk.Target))
		below.Active = below.Active || !disk.ReadOnly
	}
	for _, path := range disk.Inactive {
		if disk.Index(path) < 0 {
			w.Forest.Add(w.Key(path), path).Keep("persistent configuration of " + d.Name + "/" + disk.Target)
		}
	}
	return contradicted
}

// plantSnapshot notes which layers hold the states of a snapshot.
func (w *World) plantSnapshot(d *host.Domain, s *host.Snapshot) {
	for i := range s.Disks {
		sd := &s.Disks[i]
		path := host.StateOf(d, sd)
		if path == "" {
			continue
		}
		w.Forest.Add(w.KeyOf(d, path), path).Keep(SnapshotKeeper(d.Name, s.Name))
		if !d.HasBelow(sd.Overlay) {
			w.plantBranch(d, sd)
		}
	}
}

// plantBranch links the layers below a state that no disk's chain holds any
// more, as after a revert. A link that contradicts the chains is left out:
// the chains are what is true.
func (w *World) plantBranch(d *host.Domain, sd *host.SnapshotDisk) {
	for i := 1; i < len(sd.State); i++ {
		below := w.Forest.Add(w.KeyOf(d, sd.State[i-1]), sd.State[i-1])
		above := w.Forest.Add(w.KeyOf(d, sd.State[i]), sd.State[i])
		if above.Parent == nil && above != below {
			_ = w.Forest.Link(above, below)
		}
	}
}

// KeyOf returns the key under which path is in the forest.
func (w *World) KeyOf(d *host.Domain, path string) string {
	for i := range d.Disks {
		if k := d.Disks[i].Index(path); k >= 0 {
			return d.Disks[i].Chain[k].Key()
		}
	}
	return w.Key(path)
}

// Key returns the key of the file at path, as it was when the host was looked at: path
// itself where there was none, or where the file is another host's.
func (w *World) Key(path string) string { return w.place(path).Key }

// There tells whether something was at path then.
func (w *World) There(path string) bool { return w.place(path).There }

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
		p.Key = host.LayerKey(info.ID, path)
	}
	return p
}

// learn looks at every path that a decision on the domain can ask for.
func (w *World) learn(d *host.Domain) {
	files := slices.Concat(w.Released[d.UUID], w.Useless[d.UUID])
	if in := w.Intents[d.UUID]; in != nil {
		files = append(files, in.Files()...)
		for _, m := range in.Merges {
			w.place(m.Base)
		}
	}
	for _, f := range files {
		w.place(f.Path)
	}
	for _, path := range d.Named() {
		if path != "" {
			w.place(path)
		}
	}
}
