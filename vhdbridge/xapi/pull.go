package xapi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// Extension is that of the files.
const extension = ".vhd"

// partPattern matches what a pull that was broken off has left: nothing that is needed.
const partPattern = ".virt-rotate-pull-*.tmp"

// A Puller writes disks into a directory, as a storage repository has them: for each snapshot
// a hidden base copy and, on it, an empty VHD called by the UUID of the snapshot; the disk
// itself on the newest base copy. What is there already, whole, is not read again.
type Puller struct {
	Client *Client
	Dir    string // absolute
	Rate   int64  // bytes that are read in a second, at most; 0: all that come

	// Progress, if not nil, is told of a disk that is read, and of about how many bytes it
	// has; done is told of each that came, end that there are no more.
	Progress func(what string, total int64) (done func(n int64), end func())
	// Warn, if not nil, is told of what went wrong and is tried again.
	Warn func(text string)
}

// A Pulled is a state of a disk in the directory.
type Pulled struct {
	VDI   string `json:"vdi"` // UUID
	Name  string `json:"name"`
	File  string `json:"file"`           // of the VDI
	Bytes int64  `json:"bytes"`          // that came; before, about how many will
	Base  string `json:"base,omitempty"` // UUID of the VDI since which the changes were read; "": all was
	There bool   `json:"there"`          // it was there already
}

// A Result is what became of a plan.
type Result struct {
	Pulled []Pulled
	Left   []LeftOut
}

// Rehearse tells what Pull would read, and about how much: of changes it is known only that
// they are no more than what the disk has.
func (p *Puller) Rehearse(plan *Plan) (*Result, error) {
	r := &Result{Left: plan.Left}
	for _, c := range plan.Chains {
		base := ""
		for i := range c.States {
			s := &c.States[i]
			got := pulledOf(s, base)
			if there, err := p.there(s, &c); err != nil {
				return nil, err
			} else if got.There = there; !there && s.Like == nil {
				got.Bytes = s.VDI.Used
			}
			if s.Snapshot {
				base = s.VDI.UUID
			}
			r.Pulled = append(r.Pulled, got)
		}
	}
	return r, nil
}

func pulledOf(s *State, base string) Pulled {
	return Pulled{VDI: s.VDI.UUID, Name: s.VDI.Name, File: s.VDI.UUID + extension, Base: base}
}

// Pull reads what is not there yet, the oldest state of a disk first. A state that cannot be
// read is left out, and the next one read as what has changed since the one before. An error
// is about all of them; what is whole by then stays.
func (p *Puller) Pull(ctx context.Context, plan *Plan) (*Result, error) {
	r := &Result{Left: plan.Left}
	if err := p.sweep(); err != nil {
		return r, err
	}
	for i := range plan.Chains {
		if err := p.chain(ctx, &plan.Chains[i], r); err != nil {
			return r, err
		}
	}
	return r, nil
}

// sweep removes what a run that was broken off has left.
func (p *Puller) sweep() error {
	names, err := vfs.OS().ReadDir(p.Dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if ours, err := filepath.Match(partPattern, name); err != nil || !ours {
			continue
		}
		if err := vfs.Remove(filepath.Join(p.Dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// chain reads the states of one disk.
func (p *Puller) chain(ctx context.Context, c *Chain, r *Result) error {
	var below *State // that the next one builds on
	for i := range c.States {
		s := &c.States[i]
		base := ""
		if below != nil {
			base = below.VDI.UUID
		}
		got := pulledOf(s, base)
		err := p.state(ctx, c, s, below, &got)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case isLocal(err):
			return err
		case err != nil:
			r.Left = append(r.Left, LeftOut{s.VDI.UUID, s.VDI.Name, err.Error()})
			continue
		}
		r.Pulled = append(r.Pulled, got)
		if s.Snapshot {
			below = s
		}
	}
	return nil
}

// isLocal tells that the trouble is with the files here: the next disk would meet it, too.
func isLocal(err error) bool {
	var at *fs.PathError
	return errors.As(err, &at)
}

// state reads one state, unless it is there.
func (p *Puller) state(ctx context.Context, c *Chain, s, below *State, got *Pulled) (err error) {
	if got.There, err = p.there(s, c); err != nil || got.There {
		return err
	}
	if s.Like != nil {
		got.Base = s.Like.UUID
		return p.empty(s.VDI, fileOf(s.Like))
	}
	if s.Snapshot {
		if got.Bytes, err = p.fetch(ctx, s, below, fileOf(s.VDI)); err == nil {
			err = p.empty(s.VDI, fileOf(s.VDI))
		}
		return err
	}
	if got.Bytes, err = p.fetch(ctx, s, below, s.VDI.UUID+extension); err == nil {
		err = p.remember(s, c)
	}
	return err
}

// fileOf is the base copy of what a snapshot has: it is called by a UUID that is made of the
// snapshot's, so that it is the same each time.
func fileOf(d *VDI) string { return baseUUID(d.UUID) + extension }

// there tells whether a state is in the directory, whole. That of a disk which a guest
// writes to is so only while the guest has not been started since.
func (p *Puller) there(s *State, c *Chain) (bool, error) {
	if s.Snapshot {
		base, err := p.whole(fileOf(s.VDI))
		if err != nil || !base {
			return false, err
		}
		return p.whole(s.VDI.UUID + extension)
	}
	if s.Like != nil {
		return p.isLike(s)
	}
	yes, err := p.remembered(s, c)
	if err != nil || !yes {
		return false, err
	}
	return p.whole(s.VDI.UUID + extension)
}

// isLike tells whether the disk is the empty one on the base copy already.
func (p *Puller) isLike(s *State) (bool, error) {
	i, err := p.look(s.VDI.UUID + extension)
	if err != nil || i == nil || i.Allocated > 0 || i.ParentPath != fileOf(s.Like) {
		return false, err
	}
	return p.whole(s.VDI.UUID + extension)
}

// whole tells whether a VHD and all that it builds on are there, as they were made.
func (p *Puller) whole(name string) (bool, error) {
	id := ""
	for range maxChain {
		i, err := p.look(name)
		if err != nil || i == nil || id != "" && i.UUID.String() != id {
			return false, err
		}
		if i.Type != vhd.Differencing {
			return true, nil
		}
		if name = i.ParentPath; name != filepath.Base(name) || !strings.HasSuffix(name, extension) {
			return false, nil
		}
		id = i.ParentUUID.String()
	}
	return false, nil
}

// maxChain is how many VHDs may build on each other.
const maxChain = 190

// look reads a VHD's metadata; nil if it is not there, or no VHD that is in order.
func (p *Puller) look(name string) (*vhd.Survey, error) {
	f, err := vfs.OS().Open(filepath.Join(p.Dir, name), false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	s, err := vhd.Look(f, info.Size)
	if err != nil || !s.EndFooter || s.InUse {
		return nil, nil //nolint:nilerr // it is read anew
	}
	return &s, nil
}

// empty makes the VHD of a VDI that has what its parent has.
func (p *Puller) empty(d *VDI, parent string) error {
	below, err := p.look(parent)
	if err != nil {
		return err
	}
	if below == nil {
		return fmt.Errorf("its base copy %s is not there", parent)
	}
	part, err := p.newPart()
	if err != nil {
		return err
	}
	err = vhd.Create(part.f, vhd.CreateOptions{Size: below.Size, Backing: parent, BackingFormat: "vhd", ParentID: below.UUID.String(), Time: d.SnapshotTime})
	return part.finish(err, d.UUID+extension)
}
