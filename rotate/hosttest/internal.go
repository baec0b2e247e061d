package hosttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/engine"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// A State is an internal snapshot of an image.
type State struct {
	ID, Name string
	Time     time.Time
	Blocks   Blocks // all that the image itself has at that time
	Memory   int64  `json:",omitempty"`
}

// Inside lets libvirt take an internal snapshot at n o'clock, of the targets or of all disks,
// with the memory of a guest that runs, and the guest write after it.
func (h *Host) Inside(d *Domain, name string, n int, targets ...string) {
	snap := host.Snapshot{Name: name, Description: "state " + name, Time: Hour(n), Internal: true, Current: true}
	for i := range d.Snapshots {
		if d.Snapshots[i].Current {
			snap.Parent, d.Snapshots[i].Current = d.Snapshots[i].Name, false
		}
	}
	d.States[name] = map[string]Blocks{}
	for i := range d.Disks {
		disk := &d.Disks[i]
		sd := host.SnapshotDisk{Target: disk.Target, State: host.Paths(disk.Chain), Format: disk.Active().Format}
		if sd.Internal = len(targets) == 0 || slices.Contains(targets, disk.Target); sd.Internal {
			d.States[name][disk.Target] = h.Read(disk.Active().Path)
			memory := int64(0)
			if d.State.Live() && i == 0 {
				memory = 1000
			}
			h.Hold(disk.Active().Path, name, Hour(n), memory)
		}
		snap.Disks = append(snap.Disks, sd)
	}
	d.Snapshots = append(d.Snapshots, snap)
	for _, target := range slices.Sorted(maps.Keys(d.States[name])) {
		h.Write(d, target, h.Written%16)
	}
}

// Hold makes an internal snapshot of an image, as qemu-img does.
func (h *Host) Hold(path, name string, at time.Time, memory int64) {
	h.Change(path, func(i *Image) {
		i.States = append(i.States, State{ID: fmt.Sprint(len(i.States) + 1), Name: name, Time: at, Blocks: maps.Clone(i.Blocks), Memory: memory})
	})
}

// BackInside lets libvirt go back to an internal snapshot.
func (h *Host) BackInside(d *Domain, name string) {
	for i := range d.Snapshots {
		d.Snapshots[i].Current = d.Snapshots[i].Name == name
	}
	for target := range d.States[name] {
		disk := host.DiskOf(&d.Domain, target)
		h.Change(disk.Active().Path, func(i *Image) {
			k := slices.IndexFunc(i.States, func(s State) bool { return s.Name == name })
			i.Blocks = maps.Clone(i.States[k].Blocks)
		})
		d.Want[target] = maps.Clone(d.States[name][target])
		h.Write(d, target, h.Written%16)
	}
}

// inside returns what an image holds under the ID, "" being the present.
func (i *Image) inside(id string) Blocks {
	if id == "" {
		return i.Blocks
	}
	return i.States[slices.IndexFunc(i.States, func(s State) bool { return s.ID == id })].Blocks
}

// differing are the blocks of a that b has not, or otherwise. Nothing is ever taken out of an
// image here but by going back, which leaves a block of no value.
func differing(a, b Blocks) Blocks {
	d := Blocks{}
	for k, v := range a {
		if w, has := b[k]; !has || v != w {
			d[k] = v
		}
	}
	return d
}

// States lists what is inside an image.
func (e Engine) States(_ context.Context, chain []host.Layer) (all []host.InternalState, err error) {
	top := chain[len(chain)-1]
	err = e.On.call("states", func() error {
		image := e.On.Load(top.Path)
		seen := []string{}
		for _, s := range append(slices.Clone(image.States), State{}) {
			out := host.InternalState{ID: s.ID, Name: s.Name, Time: s.Time, Memory: s.Memory, Bytes: int64(len(image.inside(s.ID))), On: map[string]int64{}}
			for _, id := range seen {
				out.On[id] = int64(len(differing(image.inside(s.ID), image.inside(id))))
			}
			all, seen = append(all, out), append(seen, s.ID)
		}
		return e.On.EngineRefuses
	})
	return all, err
}

// Unfold makes the layers of one image after the other.
func (e Engine) Unfold(ctx context.Context, all []engine.Unfold, progress engine.Progress, then func() error) error {
	for _, u := range all {
		top := u.Chain[len(u.Chain)-1]
		if d := e.On.userOf(top.Path); d != nil && d.State.Live() {
			return &vfs.BusyError{Path: top.Path, Mode: vfs.LockRead}
		}
		for i := range u.Layers {
			if err := errors.Join(ctx.Err(), e.unfoldOne(&u, i, progress)); err != nil {
				return err
			}
		}
	}
	return then()
}

func (e Engine) unfoldOne(u *engine.Unfold, i int, progress engine.Progress) error {
	h, l, top := e.On, u.Layers[i], u.Chain[len(u.Chain)-1]
	progress("unfold", l.Path, 0, 1)
	Must(os.WriteFile(l.Path, make([]byte, 4096), 0o600)) // half of it
	return h.call("unfold", func() error {
		if info, err := os.Stat(l.Path); err != nil || info.Size() != 4096 {
			return fmt.Errorf("%s: %w", l.Path, err)
		}
		image := h.Load(top.Path)
		made := Image{Format: "qcow2", Size: image.Size, Blocks: image.inside(l.ID)}
		switch {
		case l.On >= 0:
			made.Backing, made.BackingFormat = u.Layers[l.On].Path, "qcow2"
			made.Blocks = differing(image.inside(l.ID), image.inside(u.Layers[l.On].ID))
		case len(u.Chain) > 1:
			made.Backing, made.BackingFormat = u.Chain[len(u.Chain)-2].Path, u.Chain[len(u.Chain)-2].Format
		}
		h.Store(l.Path, made)
		if l.Memory != "" {
			Must(os.WriteFile(l.Memory, []byte("memory of "+l.Name), 0o600))
		}
		return h.EngineRefuses
	})
}

// Externals writes snapshots as JSON, where libvirt has XML.
func (h *Host) Externals(_ context.Context, domain string, snapshots []host.External) (all []host.Replacement, err error) {
	err = h.call("externals", func() error {
		d := h.Find(domain)
		if d.BeyondUs {
			return errors.New("an element that this version does not know")
		}
		for _, x := range snapshots {
			if !x.New && d.Snapshot(x.Snapshot) == nil {
				return fmt.Errorf("no snapshot %s", x.Snapshot)
			}
			all = append(all, d.external(x))
		}
		return nil
	})
	return all, err
}

func (d *Domain) external(x host.External) host.Replacement {
	r := host.Replacement{External: x}
	s := host.Snapshot{Name: x.Snapshot, Time: x.Time, Description: x.Description}
	if !x.New {
		s = *d.Snapshot(x.Snapshot)
		r.Before = text(s)
	} else {
		for i := range d.Disks {
			s.Disks = append(s.Disks, host.SnapshotDisk{Target: d.Disks[i].Target, State: host.Paths(d.Disks[i].Chain)})
		}
	}
	s.Internal, s.Current, s.Parent = false, false, x.Parent
	s.Disks = slices.Clone(s.Disks)
	for i := range s.Disks {
		sd := &s.Disks[i]
		if overlay := x.Overlays[sd.Target]; overlay != "" {
			*sd = host.SnapshotDisk{Target: sd.Target, Overlay: overlay, State: host.Paths(x.Chains[sd.Target]), Format: "qcow2"}
		}
	}
	r.After = text(s)
	return r
}

func text(s host.Snapshot) string {
	out, err := json.Marshal(s)
	Must(err)
	return string(out)
}

// Replace forgets a snapshot, and then has it as it is to be.
func (h *Host) Replace(ctx context.Context, domain string, r host.Replacement) error {
	if err := h.DropMetadata(ctx, domain, r.Snapshot); err != nil {
		return err
	}
	return h.call("define-snapshot", func() error {
		d := h.Find(domain)
		var s host.Snapshot
		Must(json.Unmarshal([]byte(r.After), &s))
		if s.Parent != "" && d.Snapshot(s.Parent) == nil {
			return fmt.Errorf("parent %s is not there", s.Parent)
		}
		for i := range d.Snapshots {
			d.Snapshots[i].Current = d.Snapshots[i].Current && !r.Current
		}
		s.Current = r.Current
		d.Snapshots = append(d.Snapshots, s)
		d.parentsFirst()
		return nil
	})
}

// parentsFirst is the order in which libvirt tells of them.
func (d *Domain) parentsFirst() {
	var sorted []host.Snapshot
	for left := slices.Clone(d.Snapshots); len(left) > 0; {
		i := slices.IndexFunc(left, func(s host.Snapshot) bool { return !host.Listed(left, s.Parent) })
		sorted, left = append(sorted, left[i]), slices.Delete(left, i, i+1)
	}
	d.Snapshots = sorted
}
