package xapi

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// memoryName is the file in which is kept how disks were when they were read.
const memoryName = ".virt-rotate-pull.json"

// A memory says of disks that guests write to when they were read, and of snapshots that were
// asked for whether they were read to the end.
type memory struct {
	Disks     map[string]diskMemory     `json:"disks"`     // by UUID of the VDI
	Snapshots map[string]snapshotMemory `json:"snapshots"` // by UUID of the VM
}

type diskMemory struct {
	// Started is when the guest was last started, as the host has it: a guest that is off,
	// and was not started since, has not written.
	Started string `json:"started"`
	ID      vfs.ID `json:"id"`
	Size    int64  `json:"size"`
}

type snapshotMemory struct {
	Snapshot string `json:"snapshot"` // UUID
	Done     bool   `json:"done"`
}

func (p *Puller) recall() (*memory, error) {
	m := &memory{map[string]diskMemory{}, map[string]snapshotMemory{}}
	b, err := vfs.OS().ReadFile(filepath.Join(p.Dir, memoryName))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	var was memory
	if json.Unmarshal(b, &was) == nil && was.Disks != nil && was.Snapshots != nil { // else all is read anew
		m = &was
	}
	return m, nil
}

func (p *Puller) keep(m *memory) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return vfs.WriteFile(filepath.Join(p.Dir, memoryName), append(b, '\n'), mode)
}

// now is how a disk is: its file, and when its guest was last started; "" if that is not known.
func (p *Puller) now(s *State, c *Chain) (diskMemory, error) {
	info, err := vfs.Stat(filepath.Join(p.Dir, s.VDI.UUID+extension))
	return diskMemory{c.started, info.ID, info.Size}, err
}

// remembered tells whether the disk was read, and its guest was not started since.
func (p *Puller) remembered(s *State, c *Chain) (bool, error) {
	m, err := p.recall()
	if err != nil {
		return false, err
	}
	was, known := m.Disks[s.VDI.UUID]
	now, err := p.now(s, c)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return known && was == now && now.Started != "", err
}

func (p *Puller) remember(s *State, c *Chain) error {
	m, err := p.recall()
	if err != nil {
		return err
	}
	if m.Disks[s.VDI.UUID], err = p.now(s, c); err != nil {
		return err
	}
	return p.keep(m)
}

// Unfinished is the snapshot of a guest that was asked for by a pull which was broken off:
// its UUID, or "".
func (p *Puller) Unfinished(vm *VM) (string, error) {
	m, err := p.recall()
	if err != nil {
		return "", err
	}
	if s := m.Snapshots[vm.UUID]; !s.Done {
		return s.Snapshot, nil
	}
	return "", nil
}

// Took notes a snapshot that was asked for, and whether all of it is there.
func (p *Puller) Took(vm *VM, snapshot string, done bool) error {
	m, err := p.recall()
	if err != nil {
		return err
	}
	m.Snapshots[vm.UUID] = snapshotMemory{snapshot, done}
	return p.keep(m)
}
