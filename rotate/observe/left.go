package observe

import (
	"os"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// leftFiles looks at the files that intents name.
func (o *Observer) leftFiles(w *World) {
	for _, in := range w.Intents {
		for _, f := range in.Files() {
			o.leftFile(w, f.Path)
		}
		for _, m := range in.Merges {
			o.leftFile(w, m.Base)
		}
	}
	for i := range w.Domains {
		for k := range w.Domains[i].Snapshots {
			for _, path := range w.Domains[i].Snapshots[k].Kept() {
				o.leftFile(w, path)
			}
		}
	}
	for _, layers := range w.Released {
		for _, f := range layers {
			o.leftFile(w, f.Path)
		}
	}
}

func (o *Observer) leftFile(w *World, path string) {
	info, err := vfs.Lstat(path)
	if err != nil {
		return
	}
	left := journal.LeftFile{ID: info.ID, Allocated: info.Allocated, ModTime: info.ModTime, InUse: true}
	if use, err := vfs.InUse(path); err == nil {
		left.InUse, left.Written = use.Read || use.Write, use.Write
	}
	image, err := o.Inspect(path, "qcow2")
	left.Blank = info.Size == 0 || err == nil && image.Blank
	left.NoHeader = err != nil && beginsWithZeros(path)
	w.Left[path] = left
}

// beginsWithZeros tells whether a file's first sector is there and has only zeros.
func beginsWithZeros(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var sector [512]byte
	_, err = f.ReadAt(sector[:], 0)
	return err == nil && sector == [512]byte{}
}

// IsLeftover tells whether an intent names exactly the file at path.
func (w *World) IsLeftover(path string) bool {
	for _, in := range w.Intents {
		for _, f := range in.Files() {
			if f.Path == path && (f.ID == vfs.ID{} || f.ID == w.Left[path].ID) {
				return true
			}
		}
	}
	return false
}
