package rotate

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
func (h *simHost) Remote() bool { return h.remote }

// call brackets what a call does with events, and lets guests write meanwhile.
func (h *simHost) call(what string, do func() error) error {
	if err := h.event("call " + what); err != nil {
		return err
	}
	h.mu.Lock()
	h.guestsWrite()
	err := do()
	h.mu.Unlock()
	if err != nil {
		return err
	}
	return h.event("end of " + what)
}

// guestsWrite lets each running guest write a block of one disk.
func (h *simHost) guestsWrite() {
	if h.guests == nil {
		return
	}
	for _, d := range h.domains {
		if d.State == host.Running {
			h.write(d, d.Disks[h.guests.IntN(len(d.Disks))].Target, h.guests.IntN(16))
		}
	}
}

func (h *simHost) find(name string) *simDomain {
	for _, d := range h.domains {
		if d.Name == name {
			return d
		}
	}
	return nil
}

func (h *simHost) Domains(_ context.Context, names ...string) ([]host.Domain, error) {
	var found []host.Domain
	err := h.call("domains", func() error {
		for _, d := range h.domains {
			if len(names) == 0 || slices.Contains(names, d.Name) {
				found = append(found, d.observed(h.jobs))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// observed is what libvirt tells of the domain, sharing nothing with it.
func (d *simDomain) observed(jobs map[string]*simJob) host.Domain {
	c := d.Domain
	c.Disks = slices.Clone(d.Disks)
	for i := range c.Disks {
		disk := &c.Disks[i]
		disk.Chain, disk.Inactive = slices.Clone(disk.Chain), slices.Clone(disk.Inactive)
		if d.cut && len(disk.Chain) > 0 {
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

func (h *simHost) Snapshot(_ context.Context, domain string, spec host.SnapshotSpec) error {
	what := "snapshot"
	if spec.Quiesce {
		what = "quiesced snapshot"
	}
	return h.call(what, func() error {
		d := h.find(domain)
		if spec.Quiesce && (!d.Agent || d.mute) {
			return errors.New("guest agent is not responding")
		}
		for target, path := range spec.Overlays {
			disk := host.DiskOf(&d.Domain, target)
			if info, err := os.Stat(path); err != nil {
				return err
			} else if info.Size() != 0 {
				return fmt.Errorf("%s: not an empty file", path)
			}
			if h.jobs[domain+"/"+target] != nil {
				return fmt.Errorf("disk %s has a block job", disk.Target)
			}
		}
		for i := range d.Disks {
			t := d.Disks[i].Target
			if spec.Overlays[t] == "" && !slices.Contains(spec.Exclude, t) {
				return fmt.Errorf("disk %s is neither named nor excluded", t)
			}
		}
		h.grow(d, spec, h.now)
		return nil
	})
}

func (h *simHost) Thaw(context.Context, string) error {
	return h.call("thaw", func() error { h.thawed++; return nil })
}

func (h *simHost) DropMetadata(_ context.Context, domain, snapshot string) error {
	return h.call("drop-metadata", func() error {
		d := h.find(domain)
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
		}
		return nil
	})
}

func (h *simHost) Redefine(_ context.Context, domain string, fix host.SnapshotFix) error {
	return h.call("redefine", func() error {
		d := h.find(domain)
		i := slices.IndexFunc(d.Snapshots, func(s host.Snapshot) bool { return s.Name == fix.Snapshot })
		if i < 0 {
			return fmt.Errorf("no snapshot %s", fix.Snapshot)
		}
		if fix.Parent != nil {
			d.Snapshots[i].Parent = *fix.Parent
		}
		for k := range d.Snapshots {
			d.Snapshots[k].Current = d.Snapshots[k].Current && !fix.Current || fix.Current && k == i
		}
		for k := range d.Snapshots[i].Disks {
			sd := &d.Snapshots[i].Disks[k]
			if path := fix.Overlays[sd.Target]; path != "" {
				sd.Overlay = path
			}
			if chain := fix.Chains[sd.Target]; chain != nil {
				sd.State, sd.Cut = host.Paths(chain), false
				if sd.Inactive != nil {
					sd.Inactive = host.Paths(chain)
				}
			}
		}
		return nil
	})
}

func (h *simHost) Reconfigure(_ context.Context, domain string, chains map[string][]host.Layer) error {
	return h.call("reconfigure", func() error {
		for target, chain := range chains {
			d := &h.find(domain).Domain
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

func (h *simHost) Reinstate(ctx context.Context, domain, snapshot string, chains map[string][]host.Layer) (func() error, error) {
	d := h.find(domain)
	before, config := map[string][]host.Layer{}, d.config
	for target := range chains {
		before[target] = slices.Clone(host.DiskOf(&d.Domain, target).Chain)
	}
	d.config = snapshot
	return func() error {
		d.config = config
		return h.Reconfigure(ctx, domain, before)
	}, h.Reconfigure(ctx, domain, chains)
}

func (h *simHost) Pools(context.Context) ([]string, error) { return h.pools, nil }

func (h *simHost) Shutdown(_ context.Context, domain string, force bool) error {
	return h.call("shutdown", func() error {
		if d := h.find(domain); force || d.obeys {
			d.State = host.ShutOff
		}
		return nil
	})
}

func (h *simHost) Active(_ context.Context, domain string) (bool, error) {
	return h.starting || h.find(domain).State.Live(), nil
}

// QEMUChains tells what the test says that QEMU has.
func (h *simHost) QEMUChains(_ context.Context, domain string) (map[string][]string, error) {
	if h.qemu == nil {
		return nil, errors.New("not allowed")
	}
	return h.qemu, nil
}

// Merge starts a job, or follows the one that runs.
func (h *simHost) Merge(ctx context.Context, m host.MergeSpec, progress func(done, total int64)) error {
	job := m.Domain + "/" + m.Disk
	if err := h.call("merge", func() error { return h.startJob(m, job) }); err != nil {
		return err
	}
	defer h.count(m.Base.FS, -1)
	for h.step(job) {
		progress(1, 2)
		if err := ctx.Err(); err != nil {
			h.endJob(job)
			return err
		}
		if err := h.event("block of merge"); err != nil {
			h.endJob(job) // what is copied is copied
			return err
		}
	}
	return h.call("pivot", func() error { h.finishJob(job); return nil })
}

// Copy starts a copy, and copies all blocks.
func (h *simHost) Copy(ctx context.Context, c host.CopySpec, progress func(done, total int64)) error {
	job := c.Domain + "/" + c.Disk
	err := h.call("copy", func() error {
		disk := host.DiskOf(&h.find(c.Domain).Domain, c.Disk)
		if h.jobs[job] != nil || !h.find(c.Domain).State.Live() {
			return errors.New("another job runs on the disk, or the domain does not")
		}
		below := h.walk(c.To)
		if was, is := h.read(disk.Chain[len(disk.Chain)-2].Path), h.read(below[len(below)-2]); !maps.Equal(was, is) {
			return fmt.Errorf("the new layers read %v, the old ones %v", is, was)
		}
		j := &simJob{top: disk.Active().Path, copyTo: c.To, data: h.load(disk.Active().Path).Blocks}
		j.todo = slices.Sorted(maps.Keys(j.data))
		h.jobs[job] = j
		return nil
	})
	if err != nil {
		return err
	}
	for h.step(job) {
		progress(1, 2)
		if err := errors.Join(ctx.Err(), h.event("block of copy")); err != nil {
			h.endJob(job)
			return err
		}
	}
	if h.copyFails != nil {
		h.endJob(job)
	}
	return h.copyFails
}

// Pivot moves the guest onto the copy.
func (h *simHost) Pivot(_ context.Context, domain, target string) error {
	return h.call("pivot to the copy", func() error {
		j := h.jobs[domain+"/"+target]
		if j == nil || j.copyTo == "" || len(j.todo) > 0 {
			return errors.New("no copy is ready")
		}
		if h.pivotFails != nil {
			return h.pivotFails
		}
		delete(h.jobs, domain+"/"+target)
		disk := host.DiskOf(&h.find(domain).Domain, target)
		disk.Chain = nil
		for _, path := range h.walk(j.copyTo) {
			disk.Chain = append(disk.Chain, host.Layer{Path: path, Format: h.load(path).Format, Kind: "file"})
		}
		disk.Inactive = host.Paths(disk.Chain)
		return nil
	})
}

// EndCopy ends the copy.
func (h *simHost) EndCopy(_ context.Context, domain, target string) error {
	return h.call("end-copy", func() error { delete(h.jobs, domain+"/"+target); return nil })
}

func (h *simHost) startJob(m host.MergeSpec, job string) error {
	h.merging[m.Base.FS]++
	h.mostAtOnce[m.Base.FS] = max(h.mostAtOnce[m.Base.FS], h.merging[m.Base.FS])
	if h.locked != nil && h.locked(m) {
		h.merging[m.Base.FS]--
		return fmt.Errorf("%w: Failed to get \"write\" lock", host.ErrNotStarted)
	}
	if h.jobs[job] != nil && m.Adopt {
		return nil
	}
	if h.jobs[job] != nil {
		h.merging[m.Base.FS]--
		return errors.New("another job runs on the disk")
	}
	err := h.newJob(m, job)
	if err != nil {
		h.merging[m.Base.FS]--
	}
	return err
}

func (h *simHost) newJob(m host.MergeSpec, job string) error {
	d := h.find(m.Domain)
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
	j := &simJob{base: m.Base.Path, top: m.Top.Path, active: m.Active, pull: m.Pull, data: blocks{}}
	if m.Pull {
		base--
		top--
	}
	for k := base + 1; k <= top; k++ {
		maps.Copy(j.data, h.load(disk.Chain[k].Path).Blocks)
	}
	j.todo = slices.Sorted(maps.Keys(j.data))
	h.jobs[job] = j
	return nil
}

func (h *simHost) count(fs uint64, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.merging[fs] += n
}

// step copies one block; it tells whether there was one left.
func (h *simHost) step(job string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	j := h.jobs[job]
	if j == nil || len(j.todo) == 0 {
		return false
	}
	h.guestsWrite()
	switch {
	case j.copyTo != "":
		h.change(j.copyTo, func(i *simImage) { i.fill(j.todo[0], j.data) })
	case j.pull:
		h.change(j.top, func(i *simImage) { i.fill(j.todo[0], j.data) })
	default:
		h.change(j.base, func(i *simImage) { i.Blocks[j.todo[0]] = j.data[j.todo[0]] })
	}
	j.todo = j.todo[1:]
	return true
}

func (h *simHost) endJob(job string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.jobs, job)
}

// finishJob copies what is left and takes the merged layers out of the chain.
// No snapshot's metadata changes.
func (h *simHost) finishJob(job string) {
	j := h.jobs[job]
	if j == nil {
		return
	}
	delete(h.jobs, job)
	domain, target := filepath.Split(job)
	disk := host.DiskOf(&h.find(filepath.Clean(domain)).Domain, target)
	base, top := disk.Index(j.base), disk.Index(j.top)
	if j.pull {
		h.finishPull(j, disk, base, top)
		return
	}
	for k := base + 1; k <= top; k++ {
		layer := h.load(disk.Chain[k].Path).Blocks
		h.change(j.base, func(i *simImage) { maps.Copy(i.Blocks, layer) })
	}
	if !j.active {
		h.change(disk.Chain[top+1].Path, func(i *simImage) { i.Backing, i.BackingFormat = j.base, disk.Chain[base].Format })
	}
	disk.Chain = slices.Delete(disk.Chain, base+1, top+1)
	disk.Inactive = host.Paths(disk.Chain)
}

// finishPull copies what is left and lets the active layer build on what is below.
func (h *simHost) finishPull(j *simJob, disk *host.Disk, base, top int) {
	h.change(j.top, func(i *simImage) {
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
func (i *simImage) fill(block int, data blocks) {
	if _, has := i.Blocks[block]; !has {
		i.Blocks[block] = data[block]
	}
}

// What happens to jobs when the tool dies.
const (
	jobsGoOn   = "jobs go on"
	jobsDie    = "jobs die"
	jobsFinish = "jobs finish"
)

// afterCrash decides the fate of the jobs that run.
func (h *simHost) afterCrash(fate string) {
	for name, j := range h.jobs {
		switch {
		case j.copyTo != "" && len(j.todo) == 0: // that it ends is told by a test of its own
		case fate == jobsDie:
			delete(h.jobs, name)
		case fate == jobsFinish && (j.active || j.copyTo != ""):
			for len(j.todo) > 0 {
				h.step(name)
			}
		case fate == jobsFinish:
			h.finishJob(name)
		}
	}
	clear(h.merging)
}
