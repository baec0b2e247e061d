package observe

import (
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// recall takes what is on record of a domain into the world.
func (w *World) recall(stateDir, uuid string) {
	if layers := journal.LoadReleased(stateDir, uuid); layers != nil {
		w.Released[uuid] = layers
	}
	r := journal.LoadLost(stateDir, uuid)
	if len(r.Snapshots) > 0 {
		w.Lost[uuid] = r.Snapshots
	}
	if len(r.Useless) > 0 {
		w.Useless[uuid] = r.Useless
	}
	if len(r.Tips) > 0 {
		w.Tips[uuid] = r.Tips
	}
}

// Record is what is on record of a domain.
func (w *World) Record(d *host.Domain) journal.LostRecord {
	return journal.LostRecord{Snapshots: w.Lost[d.UUID], Useless: w.Useless[d.UUID], Tips: w.Tips[d.UUID]}
}

// useless tells whether the file at path is on record as of no use.
func (w *World) useless(path string, info vfs.Info) bool {
	for _, files := range w.Useless {
		if slices.ContainsFunc(files, func(f journal.File) bool { return f.Path == path && f.ID.Ino == info.ID.Ino }) {
			return true
		}
	}
	return false
}

// TipAt returns whose last layer the file at path is, or nil.
func (w *World) TipAt(path string) (*journal.Tip, string) {
	for i := range w.Domains {
		tips := w.Tips[w.Domains[i].UUID]
		for k := range tips {
			if tips[k].Path == path {
				return &tips[k], w.Domains[i].Name
			}
		}
	}
	return nil, ""
}

// IsReleased tells whether the layer is on record as released, or in an intent. Device numbers
// may change when the host restarts; path and inode do not.
func (w *World) IsReleased(d *host.Domain, l *host.Layer) bool {
	return w.released(d, l, func(journal.File) bool { return true })
}

// MayGo tells whether that is so of a layer which came into being with a snapshot of ours, by
// its name, or whose end a person has asked for.
func (w *World) MayGo(d *host.Domain, l *host.Layer) bool {
	return w.released(d, l, func(f journal.File) bool { return f.Asked || host.IsMade(f.Path) })
}

func (w *World) released(d *host.Domain, l *host.Layer, fits func(journal.File) bool) bool {
	free := slices.Clone(w.Released[d.UUID])
	if in := w.Intents[d.UUID]; in != nil {
		for _, m := range in.Merges {
			if m.Graft == nil { // what it merges is on record
				free = append(free, m.Gone...)
			}
		}
	}
	return slices.ContainsFunc(free, func(f journal.File) bool { return f.Path == l.Path && f.ID.Ino == l.ID.Ino && fits(f) })
}
