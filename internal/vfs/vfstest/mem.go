// Package vfstest is a file system in memory that loses power, fails, and runs
// full when a test says so.
//
// Invariants:
//   - what Sync and SyncDir have made durable survives every Crash; everything
//     else survives or not, a sector or a directory operation at a time;
//   - the same calls give the same states: there is no clock and no chance
//     beyond the seed of Crash and the number of the operation that fails;
//   - a Mem that came from Crash shares nothing that can change.
//
// There are regular files only. A directory is there when it is named, and
// symbolic and hard links are not modelled.
package vfstest

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// device is the Dev of all files.
const device = 1

// Mem is a vfs.FS in memory. It is safe for concurrent use, but then the order
// of operations, and with it what Before and FailAt hit, is that of the callers.
type Mem struct {
	Reflink bool // Copy shares where file systems with reflinks do

	mu      sync.Mutex // guards everything below, all inodes and all handles
	names   tree
	handles map[*file]bool // the open ones
	lastIno uint64
	temps   int   // names given to temporary files
	limit   int64 // of allocated pages
	faults
}

// New is an empty file system.
func New() *Mem {
	return &Mem{names: newTree(), handles: map[*file]bool{}, limit: math.MaxInt64}
}

// Limit makes the disk full once files take up that many bytes, in pages of
// 4096: what would allocate more is ENOSPC, a write after it has written what
// still fits. Files that share extents count in full.
func (m *Mem) Limit(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limit = bytes / pageSize
}

// free is how many pages can still be allocated.
func (m *Mem) free() int64 {
	if m.limit == math.MaxInt64 {
		return m.limit
	}
	used := map[*inode]int64{}
	for _, i := range m.names.live {
		used[i] = int64(len(i.live.pages))
	}
	for f := range m.handles {
		used[f.ino] = int64(len(f.ino.live.pages))
	}
	left := m.limit
	for _, n := range used {
		left -= n
	}
	return max(left, 0)
}

// Open implements vfs.FS.
func (m *Mem) Open(path string, write bool) (f vfs.File, err error) {
	err = m.do(step{op: "open", path: path, run: func() error {
		i, err := m.find("open", path)
		if err == nil {
			f = m.open(path, i, write)
		}
		return err
	}})
	return f, err
}

// open makes a handle. The caller holds mu.
func (m *Mem) open(path string, i *inode, write bool) *file {
	f := &file{m: m, ino: i, path: path, write: write}
	m.handles[f] = true
	return f
}

// Create implements vfs.FS.
func (m *Mem) Create(path string, perm fs.FileMode) (f vfs.File, err error) {
	err = m.do(step{op: "create", path: path, change: true, run: func() error {
		i, err := m.create(path, perm)
		if err == nil {
			f = m.open(path, i, true)
		}
		return err
	}})
	return f, err
}

// create makes an inode and its name. The caller holds mu.
func (m *Mem) create(path string, perm fs.FileMode) (*inode, error) {
	name := filepath.Clean(path)
	if m.names.live[name] != nil || m.names.isDir(name) {
		return nil, &os.PathError{Op: "create", Path: path, Err: syscall.EEXIST}
	}
	m.lastIno++
	i := newInode(m.lastIno, perm)
	m.names.change(entry{name, i})
	return i, nil
}

// find looks up path. The caller holds mu.
func (m *Mem) find(op, path string) (*inode, error) {
	name := filepath.Clean(path)
	if i := m.names.live[name]; i != nil {
		return i, nil
	}
	if m.names.isDir(name) {
		return nil, &vfs.KindError{Path: path, Kind: "directory"}
	}
	return nil, &os.PathError{Op: op, Path: path, Err: syscall.ENOENT}
}

// Stat implements vfs.FS.
func (m *Mem) Stat(path string) (info vfs.Info, err error) {
	err = m.do(step{op: "stat", path: path, run: func() error {
		i, err := m.find("stat", path)
		if err == nil {
			info = m.info(i)
		}
		return err
	}})
	return info, err
}

// Lstat implements vfs.FS: there are no symbolic links.
func (m *Mem) Lstat(path string) (vfs.Info, error) { return m.Stat(path) }

// info describes i. The caller holds mu.
func (m *Mem) info(i *inode) vfs.Info {
	info := vfs.Info{
		ID:   vfs.ID{Dev: device, Ino: i.ino},
		Size: i.live.size, Allocated: int64(len(i.live.pages)) * pageSize,
		Mode: i.mode, ModTime: i.mtime,
	}
	for _, named := range m.names.live {
		if named == i {
			info.Links++
		}
	}
	return info
}

// ReadDir implements vfs.FS. A directory that does not exist is an empty one.
func (m *Mem) ReadDir(dir string) (names []string, err error) {
	err = m.do(step{op: "readdir", path: dir, run: func() error {
		for name := range m.names.live {
			if filepath.Dir(name) == filepath.Clean(dir) {
				names = append(names, filepath.Base(name))
			}
		}
		return nil
	}})
	slices.Sort(names)
	return names, err
}

// List implements vfs.FS. A directory that does not exist is an empty one.
func (m *Mem) List(dir string, on uint64, most int) (l vfs.Listing, err error) {
	l.FS = device
	err = m.do(step{op: "list", path: dir, run: func() error {
		if on != 0 && on != device {
			return &fs.PathError{Op: "list", Path: dir, Err: vfs.ErrOtherFS}
		}
		l.Entries = m.names.in(filepath.Clean(dir))
		return nil
	}})
	if l.More = len(l.Entries) > most; l.More {
		l.Entries = l.Entries[:most]
	}
	return l, err
}

// ReadFile implements vfs.FS.
func (m *Mem) ReadFile(path string) (b []byte, err error) {
	err = m.do(step{op: "readfile", path: path, run: func() error {
		i, err := m.find("readfile", path)
		if err == nil {
			b = make([]byte, i.live.size)
			i.live.read(b, 0)
		}
		return err
	}})
	return b, err
}

// WriteFile implements vfs.FS. It is four changes: the temporary file, which
// matches vfs.TempPattern, with its content; its Sync; the Rename; the SyncDir.
func (m *Mem) WriteFile(path string, data []byte, perm fs.FileMode) error {
	temp, err := m.writeTemp(path, data, perm)
	if err != nil {
		return err
	}
	defer temp.Close()
	err = temp.Sync()
	if err == nil {
		err = m.Rename(temp.path, path)
	}
	if err != nil {
		m.discard(temp)
		return err
	}
	return m.SyncDir(filepath.Dir(path))
}

func (m *Mem) writeTemp(path string, data []byte, perm fs.FileMode) (f *file, err error) {
	temp := m.tempName(path)
	err = m.do(step{op: "writefile", path: temp, change: true, run: func() error {
		i, err := m.create(temp, perm)
		if err != nil {
			return err
		}
		f = m.open(temp, i, true)
		if m.write(i, data, 0) < len(data) {
			m.names.change(entry{filepath.Clean(temp), nil})
			delete(m.handles, f)
			return &os.PathError{Op: "write", Path: temp, Err: syscall.ENOSPC}
		}
		return nil
	}})
	return f, err
}

func (m *Mem) tempName(path string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.temps++
	return filepath.Join(filepath.Dir(path), strings.Replace(vfs.TempPattern, "*", fmt.Sprint(m.temps), 1))
}

// discard removes the temporary file if it still has its name.
func (m *Mem) discard(temp *file) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if name := filepath.Clean(temp.path); m.names.live[name] == temp.ino {
		m.names.change(entry{name, nil})
	}
}

// Rename implements vfs.FS.
func (m *Mem) Rename(oldpath, newpath string) error {
	return m.do(step{op: "rename", path: oldpath, detail: "to " + newpath, change: true, run: func() error {
		i, err := m.find("rename", oldpath)
		if err != nil {
			return err
		}
		from, to := filepath.Clean(oldpath), filepath.Clean(newpath)
		if m.names.isDir(to) {
			return &os.PathError{Op: "rename", Path: newpath, Err: syscall.EISDIR}
		}
		if from != to {
			m.names.change(entry{from, nil}, entry{to, i})
		}
		return nil
	}})
}

// RenameNew is Rename to a name that is free, and SyncDir.
func (m *Mem) RenameNew(oldpath, newpath string) error {
	m.mu.Lock()
	taken := m.names.live[filepath.Clean(newpath)] != nil
	m.mu.Unlock()
	if taken {
		return &os.LinkError{Op: "rename", Old: oldpath, New: newpath, Err: fs.ErrExist}
	}
	if err := m.Rename(oldpath, newpath); err != nil {
		return err
	}
	return m.SyncDir(filepath.Dir(newpath))
}

// SetTime gives a file the time of its last change, and is a Sync of it.
func (m *Mem) SetTime(path string, at time.Time) error {
	f, err := m.Open(path, true)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := m.names.live[filepath.Clean(path)]; i != nil {
		i.mtime = at
	}
	return nil
}

// RemoveExact implements vfs.FS. It is two changes: the unlink and the SyncDir.
func (m *Mem) RemoveExact(path string, id vfs.ID) error {
	err := m.do(step{op: "remove", path: path, change: true, run: func() error {
		i, err := m.find("remove", path)
		var kind *vfs.KindError
		if errors.As(err, &kind) {
			return &vfs.ChangedError{Path: path, Reason: "not a regular file"}
		}
		if err != nil {
			return err
		}
		if have := m.info(i).ID; have != id {
			return &vfs.ChangedError{Path: path, Reason: fmt.Sprintf("it is %v, not %v", have, id)}
		}
		m.names.change(entry{filepath.Clean(path), nil})
		return nil
	}})
	if err != nil {
		return err
	}
	return m.SyncDir(filepath.Dir(path))
}

// SyncDir implements vfs.FS.
func (m *Mem) SyncDir(dir string) error {
	return m.do(step{op: "syncdir", path: dir, change: true, run: func() error {
		if !m.ignored(dir) {
			m.names.commit(filepath.Clean(dir))
		}
		return nil
	}})
}
