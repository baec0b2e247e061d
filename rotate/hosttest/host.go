package hosttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// Remote says what the test wants.
func (h *Host) Remote() bool { return h.IsRemote }

// call brackets what a call does with events, and lets guests write meanwhile.
func (h *Host) call(what string, do func() error) error {
	if err := h.Event("call " + what); err != nil {
		return err
	}
	h.Mu.Lock()
	h.guestsWrite()
	err := do()
	h.Mu.Unlock()
	if err != nil {
		return err
	}
	return h.Event("end of " + what)
}

// guestsWrite lets each running guest write a block of one disk.
func (h *Host) guestsWrite() {
	if h.Writes == nil {
		return
	}
	for _, d := range h.Guests {
		if d.State == host.Running {
			h.Write(d, d.Disks[h.Writes.IntN(len(d.Disks))].Target, h.Writes.IntN(16))
		}
	}
}

func (h *Host) Find(name string) *Domain {
	for _, d := range h.Guests {
		if d.Name == name {
			return d
		}
	}
	return nil
}

func (h *Host) Domains(_ context.Context, names ...string) ([]host.Domain, error) {
	var found []host.Domain
	err := h.call("domains", func() error {
		for _, d := range h.Guests {
			if len(names) == 0 || slices.Contains(names, d.Name) {
				found = append(found, d.Observed(h.Jobs))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// Observed is what libvirt tells of the domain, sharing nothing with it.
func (d *Domain) Observed(jobs map[string]*Job) host.Domain {
	c := d.Domain
	c.Disks = slices.Clone(d.Disks)
	for i := range c.Disks {
		disk := &c.Disks[i]
		disk.Chain, disk.Inactive = slices.Clone(disk.Chain), slices.Clone(disk.Inactive)
		if d.Cut && len(disk.Chain) > 0 {
			disk.Chain, disk.Inactive = disk.Chain[len(disk.Chain)-1:], disk.Inactive[len(disk.Inactive)-1:]
		}
		for k := range disk.Chain {
			if d.State.Live() {
				disk.Chain[k].Index = uint(k + 1)
			}
		}
		if j := jobs[d.Name+"/"+disk.Target]; j != nil {
			disk.Job = &host.Job{Type: "commit", Done: 1, Size: 2}
			switch {
			case j.pull:
				disk.Job.Type = "pull"
			case j.copyTo != "":
				disk.Job = &host.Job{Type: "copy", Ready: len(j.todo) == 0, Target: j.copyTo}
			case j.active:
				disk.Job = &host.Job{Type: "active-commit", Ready: len(j.todo) == 0}
			}
		}
	}
	c.Snapshots = host.CloneSnapshots(d.Snapshots)
	for i := range c.Snapshots {
		for k := range c.Snapshots[i].Disks {
			sd := &c.Snapshots[i].Disks[k]
			sd.State, sd.Inactive = slices.Clone(sd.State), slices.Clone(sd.Inactive)
		}
	}
	return c
}

func (h *Host) Snapshot(_ context.Context, domain string, spec host.SnapshotSpec) error {
	what := "snapshot"
	if spec.Quiesce {
		what = "quiesced snapshot"
	}
	return h.call(what, func() error {
		return h.take(h.Find(domain), spec)
	})
}

// take does what a snapshot does, if libvirt would take it.
func (h *Host) take(d *Domain, spec host.SnapshotSpec) error {
	if spec.Quiesce && (!d.Agent || d.Mute) {
		return errors.New("guest agent is not responding")
	}
	for target, path := range spec.Overlays {
		disk := host.DiskOf(&d.Domain, target)
		if info, err := os.Stat(path); err != nil {
			return err
		} else if info.Size() != 0 {
			return fmt.Errorf("%s: not an empty file", path)
		}
		if h.Jobs[d.Name+"/"+target] != nil {
			return fmt.Errorf("disk %s has a block job", disk.Target)
		}
	}
	for i := range d.Disks {
		t := d.Disks[i].Target
		if spec.Overlays[t] == "" && !slices.Contains(spec.Exclude, t) {
			return fmt.Errorf("disk %s is neither named nor excluded", t)
		}
	}
	h.Grow(d, spec, h.Now)
	return nil
}

func (h *Host) Thaw(context.Context, string) error {
	return h.call("thaw", func() error { h.Thawed++; return nil })
}

func (h *Host) DropMetadata(_ context.Context, domain, snapshot string) error {
	return h.call("drop-metadata", func() error {
		d := h.Find(domain)
		i := slices.IndexFunc(d.Snapshots, func(s host.Snapshot) bool { return s.Name == snapshot })
		if i < 0 {
			return nil
		}
		gone := d.Snapshots[i]
		for k := range d.Snapshots {
			if s := &d.Snapshots[k]; d.Descends(s, snapshot) && onBranch(&d.Domain, s) {
				leave(s, &gone)
			}
		}
		d.Snapshots = slices.Delete(d.Snapshots, i, i+1)
		for k := range d.Snapshots {
			s := &d.Snapshots[k]
			if s.Parent == snapshot {
				s.Parent = gone.Parent
				inherit(s, &gone)
			}
			if gone.Current && s.Name == gone.Parent {
				s.Current = true
			}
			for n := range s.Disks { // libvirt's revert to a snapshot without children
				if sd := &s.Disks[n]; s.Name == gone.Parent && sd.Reverted != "" {
					sd.Overlay, sd.Reverted = sd.Reverted, ""
				}
			}
		}
		return nil
	})
}

func (h *Host) Reconfigure(_ context.Context, domain string, chains map[string][]host.Layer) error {
	return h.call("reconfigure", func() error {
		for target, chain := range chains {
			d := &h.Find(domain).Domain
			disk := host.DiskOf(d, target)
			disk.Inactive = host.Paths(chain)
			if !d.State.Live() {
				disk.Chain = nil
				for _, l := range chain {
					disk.Chain = append(disk.Chain, host.Layer{Path: l.Path, Format: l.Format, Kind: l.Kind})
				}
			}
		}
		return nil
	})
}

func (h *Host) Reinstate(ctx context.Context, domain, snapshot string, chains map[string][]host.Layer) (func() error, error) {
	d := h.Find(domain)
	before, config := map[string][]host.Layer{}, d.Config
	for target := range chains {
		before[target] = slices.Clone(host.DiskOf(&d.Domain, target).Chain)
	}
	d.Config = snapshot
	return func() error {
		d.Config = config
		return h.Reconfigure(ctx, domain, before)
	}, h.Reconfigure(ctx, domain, chains)
}

func (h *Host) Pools(context.Context) ([]string, error) { return h.PoolDirs, nil }

// QEMUChains tells what the test says that QEMU has.
func (h *Host) QEMUChains(_ context.Context, domain string) (map[string][]string, error) {
	if h.Qemu == nil {
		return nil, errors.New("not allowed")
	}
	return h.Qemu, nil
}

// Merge starts a job, or follows the one that runs.
func (h *Host) Merge(ctx context.Context, m host.MergeSpec, progress func(done, total int64)) error {
	job := m.Domain + "/" + m.Disk
	if err := h.call("merge", func() error { return h.startJob(m, job) }); err != nil {
		return err
	}
	defer h.count(m.Base.FS, -1)
	for h.step(job) {
		progress(1, 2)
		if err := ctx.Err(); err != nil {
			h.EndJob(job)
			return err
		}
		if err := h.Event("block of merge"); err != nil {
			h.EndJob(job) // what is copied is copied
			return err
		}
	}
	if m.Active && m.Base.Format == "raw" {
		return h.pausedPivot(m, job)
	}
	return h.call("pivot", func() error { h.FinishJob(job); return nil })
}

// pausedPivot is what a QEMU before 8.1 needs where the base is raw.
func (h *Host) pausedPivot(m host.MergeSpec, job string) error {
	d := h.Find(m.Domain)
	if d.State != host.Running {
		return h.call("pivot", func() error { h.FinishJob(job); return nil })
	}
	if m.Pausing != nil {
		if err := m.Pausing(); err != nil {
			return err
		}
	}
	if err := h.call("suspend", func() error { d.State = host.Paused; return nil }); err != nil {
		return err
	}
	if err := h.call("pivot", func() error { h.FinishJob(job); return nil }); err != nil {
		return err
	}
	return h.Resume(context.Background(), m.Domain)
}

// Copy starts a copy, and copies all blocks.
func (h *Host) Copy(ctx context.Context, c host.CopySpec, progress func(done, total int64)) error {
	job := c.Domain + "/" + c.Disk
	err := h.call("copy", func() error {
		disk := host.DiskOf(&h.Find(c.Domain).Domain, c.Disk)
		if h.Jobs[job] != nil || !h.Find(c.Domain).State.Live() {
			return errors.New("another job runs on the disk, or the domain does not")
		}
		below := h.Walk(c.To)
		if was, is := h.Read(disk.Chain[len(disk.Chain)-2].Path), h.Read(below[len(below)-2]); !maps.Equal(was, is) {
			return fmt.Errorf("the new layers read %v, the old ones %v", is, was)
		}
		j := &Job{top: disk.Active().Path, copyTo: c.To, data: h.Load(disk.Active().Path).Blocks}
		j.todo = slices.Sorted(maps.Keys(j.data))
		h.Jobs[job] = j
		return nil
	})
	if err != nil {
		return err
	}
	for h.step(job) {
		progress(1, 2)
		if err := errors.Join(ctx.Err(), h.Event("block of copy")); err != nil {
			h.EndJob(job)
			return err
		}
	}
	if h.CopyFails != nil {
		h.EndJob(job)
	}
	return h.CopyFails
}

// Pivot moves the guest onto the copy.
func (h *Host) Pivot(_ context.Context, domain, target string) error {
	return h.call("pivot to the copy", func() error {
		j := h.Jobs[domain+"/"+target]
		if j == nil || j.copyTo == "" || len(j.todo) > 0 {
			return errors.New("no copy is ready")
		}
		if h.PivotFails != nil {
			return h.PivotFails
		}
		delete(h.Jobs, domain+"/"+target)
		disk := host.DiskOf(&h.Find(domain).Domain, target)
		disk.Chain = nil
		for _, path := range h.Walk(j.copyTo) {
			disk.Chain = append(disk.Chain, host.Layer{Path: path, Format: h.Load(path).Format, Kind: "file"})
		}
		disk.Inactive = host.Paths(disk.Chain)
		return nil
	})
}

// EndCopy ends the copy.
func (h *Host) EndCopy(_ context.Context, domain, target string) error {
	return h.call("end-copy", func() error { delete(h.Jobs, domain+"/"+target); return nil })
}

func (h *Host) startJob(m host.MergeSpec, job string) error {
	h.Merging[m.Base.FS]++
	h.MostAtOnce[m.Base.FS] = max(h.MostAtOnce[m.Base.FS], h.Merging[m.Base.FS])
	if h.Locked != nil && h.Locked(m) {
		h.Merging[m.Base.FS]--
		return fmt.Errorf("%w: Failed to get \"write\" lock", host.ErrNotStarted)
	}
	if h.Jobs[job] != nil && m.Adopt {
		return nil
	}
	if h.Jobs[job] != nil {
		h.Merging[m.Base.FS]--
		return errors.New("another job runs on the disk")
	}
	err := h.newJob(m, job)
	if err != nil {
		h.Merging[m.Base.FS]--
	}
	return err
}

func (h *Host) newJob(m host.MergeSpec, job string) error {
	d := h.Find(m.Domain)
	if !d.State.Live() {
		return errors.New("domain is not running")
	}
	disk := host.DiskOf(&d.Domain, m.Disk)
	base, top := disk.Index(m.Base.Path), disk.Index(m.Top.Path)
	if base < 0 || top <= base || m.Base.Index != uint(base+1) || m.Top.Index != uint(top+1) {
		return fmt.Errorf("invalid base %s[%d] or top %s[%d]", m.Base.Path, m.Base.Index, m.Top.Path, m.Top.Index)
	}
	if m.Active != (top == len(disk.Chain)-1) {
		return errors.New("commit of the active layer must be asked for, and only of that")
	}
	if m.Pull && (!m.Active || (m.Below.Path == "") != (base == 0) || base > 0 && m.Below.Index != uint(base)) {
		return errors.New("a pull goes into the active layer, and from what is above Below")
	}
	j := &Job{base: m.Base.Path, top: m.Top.Path, active: m.Active, pull: m.Pull, data: Blocks{}}
	if m.Pull {
		base--
		top--
	}
	for k := base + 1; k <= top; k++ {
		maps.Copy(j.data, h.Load(disk.Chain[k].Path).Blocks)
	}
	j.todo = slices.Sorted(maps.Keys(j.data))
	h.Jobs[job] = j
	return nil
}

func (h *Host) count(fs uint64, n int) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	h.Merging[fs] += n
}

// step copies one block; it tells whether there was one left.
func (h *Host) step(job string) bool {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	j := h.Jobs[job]
	if j == nil || len(j.todo) == 0 {
		return false
	}
	h.guestsWrite()
	switch {
	case j.copyTo != "":
		h.Change(j.copyTo, func(i *Image) { i.fill(j.todo[0], j.data) })
	case j.pull:
		h.Change(j.top, func(i *Image) { i.fill(j.todo[0], j.data) })
	default:
		h.Change(j.base, func(i *Image) { i.Blocks[j.todo[0]] = j.data[j.todo[0]] })
	}
	j.todo = j.todo[1:]
	return true
}

func (h *Host) EndJob(job string) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	delete(h.Jobs, job)
}

// FinishJob copies what is left and takes the merged layers out of the chain.
// No snapshot's metadata changes.
func (h *Host) FinishJob(job string) {
	j := h.Jobs[job]
	if j == nil {
		return
	}
	delete(h.Jobs, job)
	domain, target := filepath.Split(job)
	disk := host.DiskOf(&h.Find(filepath.Clean(domain)).Domain, target)
	base, top := disk.Index(j.base), disk.Index(j.top)
	if j.pull {
		h.finishPull(j, disk, base, top)
		return
	}
	for k := base + 1; k <= top; k++ {
		layer := h.Load(disk.Chain[k].Path).Blocks
		h.Change(j.base, func(i *Image) { maps.Copy(i.Blocks, layer) })
	}
	if !j.active {
		h.Change(disk.Chain[top+1].Path, func(i *Image) { i.Backing, i.BackingFormat = j.base, disk.Chain[base].Format })
	}
	disk.Chain = slices.Delete(disk.Chain, base+1, top+1)
	disk.Inactive = host.Paths(disk.Chain)
}

// finishPull copies what is left and lets the active layer build on what is below.
func (h *Host) finishPull(j *Job, disk *host.Disk, base, top int) {
	h.Change(j.top, func(i *Image) {
		for b := range j.data {
			i.fill(b, j.data)
		}
		i.Backing, i.BackingFormat = "", ""
		if base > 0 {
			i.Backing, i.BackingFormat = disk.Chain[base-1].Path, disk.Chain[base-1].Format
		}
	})
	disk.Chain = slices.Delete(disk.Chain, base, top)
	disk.Inactive = host.Paths(disk.Chain)
}

// fill gives the image a block of data that it lacks.
func (i *Image) fill(block int, data Blocks) {
	if _, has := i.Blocks[block]; !has {
		i.Blocks[block] = data[block]
	}
}

// What happens to jobs when the tool dies.
const (
	JobsGoOn   = "jobs go on"
	JobsDie    = "jobs die"
	JobsFinish = "jobs finish"
)

// AfterCrash decides the fate of the jobs that run.
func (h *Host) AfterCrash(fate string) {
	for name, j := range h.Jobs {
		switch {
		case j.copyTo != "" && len(j.todo) == 0: // that it ends is told by a test of its own
		case fate == JobsDie:
			delete(h.Jobs, name)
		case fate == JobsFinish && (j.active || j.copyTo != ""):
			for len(j.todo) > 0 {
				h.step(name)
			}
		case fate == JobsFinish:
			h.FinishJob(name)
		}
	}
	clear(h.Merging)
}
