package observe

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// movePrefix begins what keeps the layers of a guest whose migration is not finished.
const movePrefix = "migration of "

// moves reads the migrations that are not finished: those that this host began, and those of guests of
// this host that another one has put on record on the storage. All layers that these name are kept.
func (o *Observer) moves(w *World) error {
	moves, err := journal.MovesIn(o.StateDir).Load()
	if err != nil {
		return err
	}
	for i := range w.Domains {
		d := &w.Domains[i]
		for _, dir := range o.recordsOf(w, d) {
			if moves[d.UUID] == nil {
				if m := dir.Read(d.UUID); m != nil {
					m.Tame(d.Name)
					moves[d.UUID] = m
				}
			}
		}
	}
	for _, m := range moves {
		for i := range m.Snapshots {
			for _, path := range m.Snapshots[i].Files {
				w.Forest.Add(w.Key(path), path).Keep(movePrefix + m.Named())
			}
		}
	}
	if len(moves) > 0 {
		w.Moves = moves
	}
	return nil
}

// recordsOf are the records on the storages that the domain has layers on.
func (o *Observer) recordsOf(w *World, d *host.Domain) (all []journal.Moves) {
	if o.Fleet == nil || w.Remote {
		return nil
	}
	for _, s := range o.Fleet.All() {
		i := slices.IndexFunc(w.Shares, func(x Share) bool { return x.Dir == s.Dir() })
		if i < 0 || !w.has(d, i) {
			continue
		}
		dir, err := s.Records()
		if err != nil {
			continue // nobody has told anything there, or w.Shares tells of it
		}
		if j := journal.MovesIn(dir); j.Any() {
			all = append(all, j)
		}
	}
	return all
}

// has tells whether a layer of the domain is on the storage with that number.
func (w *World) has(d *host.Domain, share int) bool {
	return slices.ContainsFunc(layersOf(d), func(path string) bool { return slices.Contains(w.OnShares[path], share) })
}

// RecordDirs are the directories in which other hosts find the record of a guest's migration.
func (o *Observer) RecordDirs(w *World, d *host.Domain) (dirs []string, err error) {
	return o.dirsOn(w, func(share int) bool { return w.has(d, share) }, true)
}

// HandoverDirs are those on the storages to which the domain writes: another host that gets it has these, and finds there
// what it has to know. None where no host has told anything yet.
func (o *Observer) HandoverDirs(w *World, d *host.Domain) (dirs []string, err error) {
	return o.dirsOn(w, func(share int) bool { return w.writes(d, share) }, false)
}

// dirsOn are the directories where hosts tell each other, on the storages with the numbers that are wanted; unmade says that
// those count, too, in which nobody has told anything yet.
func (o *Observer) dirsOn(w *World, wanted func(share int) bool, unmade bool) (dirs []string, err error) {
	for _, s := range o.Fleet.All() {
		i := slices.IndexFunc(w.Shares, func(x Share) bool { return x.Dir == s.Dir() })
		if i < 0 || !wanted(i) {
			continue
		}
		dir, err := s.Records()
		missing := errors.Is(err, fs.ErrNotExist)
		if err != nil && !missing {
			return nil, err
		}
		if dir == "" {
			continue // of block devices
		}
		if unmade || !missing {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// writes tells whether a disk of the domain writes to the storage with that number.
func (w *World) writes(d *host.Domain, share int) bool {
	return slices.ContainsFunc(d.Disks, func(disk host.Disk) bool {
		return len(disk.Chain) > 0 && !disk.ReadOnly && slices.Contains(w.OnShares[disk.Active().Path], share)
	})
}

// EpochOf is the highest epoch with which this host has told that the domain is its own, or will tell so.
func (w *World) EpochOf(d *host.Domain) uint64 {
	epoch := w.Whose[d.UUID].Epoch
	for i := range w.Shares {
		if g := w.Shares[i].View.Mine.Guest(d.UUID); g != nil {
			epoch = max(epoch, g.Epoch)
		}
	}
	return epoch
}

// movesLayer tells whether a migration that is not finished keeps the layer.
func movesLayer(who string) bool { return strings.HasPrefix(who, movePrefix) }

// Unshared are files of the domain's disks and snapshots that no storage of several hosts has: another host
// has others, or none, by these names.
func (o *Observer) Unshared(w *World, d *host.Domain) (paths []string) {
	add := func(path string) {
		if filepath.IsAbs(path) && len(o.Fleet.On(w.dirOf(d, path))) == 0 && !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	for i := range d.Disks {
		for _, l := range d.Disks[i].Chain {
			if l.Kind == "file" && !d.Disks[i].ReadOnly {
				add(l.Path)
			}
		}
	}
	for i := range d.Snapshots {
		for _, path := range d.Snapshots[i].Files() {
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
				add(path)
			}
		}
	}
	return paths
}
