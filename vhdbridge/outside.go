package vhdbridge

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// lookAround looks for files of the directory, and below it, that are no nodes by their
// names but images that build on nodes: copies, or leaves that were renamed by hand.
func (r *Repository) lookAround(fsys vfs.FS, others []string, readers map[string]Reader) {
	if len(r.Nodes) == 0 || vfs.HoldsDevices(r.Dir) {
		return
	}
	for _, name := range others {
		r.lookAt(fsys, filepath.Join(r.Dir, name), readers)
	}
	limits := vfs.ScanLimits()
	for found, err := range vfs.Below(fsys, r.Dir, limits) {
		switch {
		case err != nil:
			r.hides(found.Path, fmt.Sprintf("images in it could build on any node, and it cannot be looked through: %v", err))
		case filepath.Dir(found.Path) != r.Dir:
			r.lookAt(fsys, found.Path, readers)
		}
	}
}

// hides notes what may build on any node.
func (r *Repository) hides(path, reason string) {
	r.Unseen = append(r.Unseen, Spoiled{Node: path, Reason: reason})
	r.doubt("%s: %s", path, reason)
}

// lookAt notes a file that builds on a node, or could.
func (r *Repository) lookAt(fsys vfs.FS, path string, readers map[string]Reader) {
	if temp, _ := filepath.Match(vfs.TempPattern, filepath.Base(path)); temp {
		return
	}
	f, err := fsys.Open(path, false)
	var kind *vfs.KindError
	if errors.As(err, &kind) || errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = errors.Join(r.lookInto(fsys, f, readers), f.Close())
	}
	if err != nil && unreadable(err) {
		r.hides(path, fmt.Sprintf("it could build on any node, and cannot be read: %v", err))
	} else if err != nil {
		r.doubt("%s could build on a node, and cannot be read: %v; move it away if it does not", path, err)
	}
}

func (r *Repository) lookInto(fsys vfs.FS, f vfs.File, readers map[string]Reader) error {
	g, err := chain.GlanceAt(f)
	if err != nil || !g.CanBuildOn(formatVHD) && !g.CanBuildOn(formatQcow2) {
		return err
	}
	image := chain.Image{Backing: g.Backing}
	if g.Format == formatVHD && readers[formatVHD] != nil {
		facts, err := readers[formatVHD](f)
		if image = facts.Image; err != nil && image.Backing == "" {
			return err
		}
	}
	if image.Backing != "" {
		r.noteUser(fsys, f.Path(), image)
	}
	return nil
}

// noteUser notes the nodes that the image at path builds on, by name or by UUID. Of one that
// names what is not there, and no UUID, it could be any.
func (r *Repository) noteUser(fsys vfs.FS, path string, image chain.Image) {
	file := chain.BackingPath(path, image.Backing)
	info, err := fsys.Stat(file)
	known := err == nil || image.BackingID != "" || chain.IsRemote(image.Backing)
	for _, n := range r.Nodes {
		byName := err == nil && info.ID == n.id || err != nil && parentName(image.Backing) == n.Name
		if byName || image.BackingID != "" && image.BackingID == n.uuid {
			n.used, known = path, true
		}
	}
	if !known {
		r.hides(path, "it could build on any node: its parent "+parentName(image.Backing)+" is not there; move it away if nobody needs it")
	}
}
