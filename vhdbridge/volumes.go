package vhdbridge

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/lvm2"
)

// groupPrefix is how the volume groups of repositories begin; their UUID follows.
const groupPrefix = "VG_XenStorage-"

// Volumes shows the volume group of a repository, which lies on devices or on copies of such,
// as a directory of the logical volumes in it, by the device mapper's leave or without. It can
// be read and never written to. All other paths are those of the file system below.
type Volumes struct {
	vfs.FS
	// Dir is the path of the directory: that of the first physical volume, which is no
	// directory itself.
	Dir      string
	Group    *lvm2.Group
	Warnings []string // physical volumes that are missing or have older metadata

	files map[*lvm2.PV]vfs.File
	id    vfs.ID
}

// OpenVolumes opens physical volumes by open, which returns a file as wide as the physical
// volume, and reads the group on them. Nobody may write to them meanwhile. The errors are
// those of lvm2, of opening and of locking, and an error where there is not one repository.
func OpenVolumes(fsys vfs.FS, open func(path string) (vfs.File, error), paths ...string) (*Volumes, error) {
	v := &Volumes{FS: fsys, Dir: filepath.Clean(paths[0]), files: map[*lvm2.PV]vfs.File{}}
	if err := v.open(open, paths); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

func (v *Volumes) open(open func(string) (vfs.File, error), paths []string) error {
	var pvs []*lvm2.PV
	for _, path := range paths {
		pv, f, err := openPV(open, path)
		if err != nil {
			return err
		}
		v.files[pv] = f
		pvs = append(pvs, pv)
	}
	groups, err := lvm2.Groups(pvs...)
	if err != nil {
		return err
	}
	if v.Group, err = repositoryGroup(paths[0], groups); err != nil {
		return err
	}
	info, err := v.files[pvs[0]].Stat()
	v.id = info.ID
	v.warn()
	return err
}

func openPV(open func(string) (vfs.File, error), path string) (*lvm2.PV, vfs.File, error) {
	f, err := open(path)
	if err != nil {
		return nil, nil, err
	}
	size, err := f.Size()
	if err == nil {
		err = f.Lock(vfs.LockRead)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	pv, err := lvm2.Open(path, f, size)
	if errors.Is(err, lvm2.ErrNoLabel) && hasPartitions(f) {
		err = fmt.Errorf("%s: it has a table of partitions: give the one that the repository is on, by way of: losetup -r -P -f --show %s", path, path)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return pv, f, nil
}

// hasPartitions tells whether a disk begins as one with partitions does.
func hasPartitions(f vfs.File) bool {
	var sector [512]byte
	_, err := f.ReadAt(sector[:], 0)
	return err == nil && sector[510] == 0x55 && sector[511] == 0xaa
}

// repositoryGroup is the only group of a repository.
func repositoryGroup(path string, groups []*lvm2.Group) (*lvm2.Group, error) {
	var names []string
	var found []*lvm2.Group
	for _, g := range groups {
		names = append(names, g.Name)
		if strings.HasPrefix(g.Name, groupPrefix) {
			found = append(found, g)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("%s: these are the physical volumes of %d repositories (%s): give those of one", path, len(found), strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("%s: its volume group %s is none of a storage repository, which begins with %s", path, strings.Join(names, ", "), groupPrefix)
}

func (v *Volumes) warn() {
	for _, uuid := range v.Group.Missing {
		v.Warnings = append(v.Warnings, fmt.Sprintf("physical volume %s of the group was not given: what lies on it cannot be read", uuid))
	}
	for _, name := range v.Group.Stale {
		v.Warnings = append(v.Warnings, name+" has older metadata than the others: it was away when the group was changed, or is an older copy")
	}
}

// UUID is that of the repository.
func (v *Volumes) UUID() string { return strings.TrimPrefix(v.Group.Name, groupPrefix) }

// Close closes the physical volumes.
func (v *Volumes) Close() error {
	var errs []error
	for _, f := range v.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// volume returns the volume at path, nil where path is none of the directory's, and whether
// it is in there at all.
func (v *Volumes) volume(path string) (lv *lvm2.Volume, inside bool) {
	name, inside := strings.CutPrefix(filepath.Clean(path), v.Dir+"/")
	if !inside {
		return nil, false
	}
	for _, lv := range v.Group.Volumes {
		if lv.Name == name && !lv.Hidden {
			return lv, true
		}
	}
	return nil, true
}

func readOnly(op, path string) error { return &fs.PathError{Op: op, Path: path, Err: syscall.EROFS} }

func (v *Volumes) at(op, path string) (f *volumeFile, inside bool, err error) {
	lv, inside := v.volume(path)
	if inside && lv == nil {
		err = &fs.PathError{Op: op, Path: path, Err: fs.ErrNotExist}
	}
	return &volumeFile{v, lv, path}, inside, err
}

// Open opens a volume for reading.
func (v *Volumes) Open(path string, write bool) (vfs.File, error) {
	f, inside, err := v.at("open", path)
	switch {
	case !inside:
		return v.FS.Open(path, write)
	case err != nil:
		return nil, err
	case write:
		return nil, readOnly("open", path)
	}
	return f, nil
}

// Stat looks at a volume, as does Lstat.
func (v *Volumes) Stat(path string) (vfs.Info, error) { return v.look(path, v.FS.Stat) }

// Lstat looks at a volume.
func (v *Volumes) Lstat(path string) (vfs.Info, error) { return v.look(path, v.FS.Lstat) }

func (v *Volumes) look(path string, below func(string) (vfs.Info, error)) (vfs.Info, error) {
	f, inside, err := v.at("stat", path)
	switch {
	case !inside:
		return below(path)
	case err != nil:
		return vfs.Info{}, err
	}
	return f.Stat()
}

// ReadDir lists the volumes.
func (v *Volumes) ReadDir(dir string) ([]string, error) {
	if filepath.Clean(dir) != v.Dir {
		return v.FS.ReadDir(dir)
	}
	var names []string
	for _, lv := range v.Group.Volumes {
		if !lv.Hidden {
			names = append(names, lv.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// List lists the volumes as devices.
func (v *Volumes) List(dir string, on uint64, most int) (vfs.Listing, error) {
	if filepath.Clean(dir) != v.Dir {
		return v.FS.List(dir, on, most)
	}
	names, err := v.ReadDir(dir)
	l := vfs.Listing{FS: v.id.Dev, More: len(names) > most}
	for _, name := range names[:min(most, len(names))] {
		l.Entries = append(l.Entries, vfs.Entry{Name: name, Type: fs.ModeDevice})
	}
	return l, err
}

// ReadFile reads a small volume, as those of journals are.
func (v *Volumes) ReadFile(path string) ([]byte, error) {
	f, inside, err := v.at("read", path)
	switch {
	case !inside:
		return v.FS.ReadFile(path)
	case err != nil:
		return nil, err
	}
	data := make([]byte, min(f.lv.Size, 1<<20))
	_, err = f.ReadAt(data, 0)
	return data, err
}

// inside refuses to change anything in the directory.
func (v *Volumes) inside(op string, paths ...string) error {
	for _, path := range paths {
		if _, inside := v.volume(path); inside {
			return readOnly(op, path)
		}
	}
	return nil
}

// Create makes files elsewhere only.
func (v *Volumes) Create(path string, perm fs.FileMode) (vfs.File, error) {
	if err := v.inside("create", path); err != nil {
		return nil, err
	}
	return v.FS.Create(path, perm)
}

// WriteFile writes files elsewhere only.
func (v *Volumes) WriteFile(path string, data []byte, perm fs.FileMode) error {
	if err := v.inside("write", path); err != nil {
		return err
	}
	return v.FS.WriteFile(path, data, perm)
}

// Rename renames files elsewhere only.
func (v *Volumes) Rename(oldpath, newpath string) error {
	if err := v.inside("rename", oldpath, newpath); err != nil {
		return err
	}
	return v.FS.Rename(oldpath, newpath)
}

// RemoveExact removes files elsewhere only.
func (v *Volumes) RemoveExact(path string, id vfs.ID) error {
	if err := v.inside("remove", path); err != nil {
		return err
	}
	return v.FS.RemoveExact(path, id)
}
