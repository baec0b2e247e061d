package decide

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// The memory of a guest is written while it runs: pages that it changes meanwhile are written once
// more, so that the file can become larger than the memory. When it has the size of the memory the
// guest is paused at the latest, and what is missing then is at most the memory again.

// memoryMargin is more than what the devices of a guest have beside its memory.
const memoryMargin = 32 * mib

// onceWritten is the most that a memory of so many bytes needs in a file, with the headers of its pages.
func onceWritten(memory int64) int64 { return memory + memory/256 + memoryMargin }

// placeMemory says where the guest's memory of the snapshot goes, if a person wants it: beside the first
// overlay.
func (b *builder) placeMemory(spec *host.SnapshotSpec) *Refusal {
	if !b.o.taking().Memory {
		return nil
	}
	refuse := func(path, detail string) *Refusal { return &Refusal{host.CodeMemory, path, detail} }
	switch left := b.writableLeftOut(spec); {
	case !b.d.State.Live():
		return refuse("", "the guest is off: it has no memory that could be kept")
	case b.d.Memory == 0:
		return refuse("", "libvirt does not tell how much memory the guest has")
	case len(left) > 0:
		return refuse(left[0], fmt.Sprintf("the snapshot would be taken without %s: a guest that goes on from its memory must find all its disks as they were", strings.Join(left, ", ")))
	}
	path := host.MemoryOf(spec.Overlays[slices.Sorted(maps.Keys(spec.Overlays))[0]])
	switch {
	case len(filepath.Base(path)) > maxFileName:
		return &Refusal{host.CodeNameTooLong, path, fmt.Sprintf("the file name of the memory would be longer than %d bytes", maxFileName)}
	case b.w.Taken[path]:
		return refuse(path, "the file for the memory is there already: give the snapshot another name")
	}
	spec.Memory = &host.MemorySpec{Path: path, Live: true, Runs: b.d.State == host.Running, Size: b.d.Memory, Most: onceWritten(b.d.Memory)}
	return b.reserveMemory(spec.Memory)
}

// reserveMemory sees that the memory has room. Where there is none for a guest that changes all of it
// meanwhile, the guest stands still.
func (b *builder) reserveMemory(m *host.MemorySpec) *Refusal {
	once := onceWritten(m.Size)
	if m.Runs && b.reserveOverlay(m.Path, 2*once) == nil {
		return nil
	}
	m.Live = false
	return b.reserveFor(m.Path, once, "the guest's memory there")
}

// writableLeftOut lists the disks that the guest can write to and the snapshot does not have.
func (b *builder) writableLeftOut(spec *host.SnapshotSpec) (targets []string) {
	for _, target := range spec.Exclude {
		if disk := b.disk(target); disk != nil && isWritable(disk) {
			targets = append(targets, target)
		}
	}
	return targets
}

// isWritable tells whether a guest can write to the disk.
func isWritable(disk *host.Disk) bool { return !disk.ReadOnly && disk.Device != "cdrom" }

func memoryReason(m *host.MemorySpec) string {
	switch {
	case !m.Runs:
		return "the memory of the guest, which is paused"
	case m.Live:
		return "the guest's memory, which is written while it runs"
	}
	return "the guest's memory; there is no room for what a guest that runs changes meanwhile, so it stands still until it is written"
}

// memoryStays tells of a memory that does not go with its snapshot, for the file is not named as ours are.
func (b *builder) memoryStays(snapshot string) string {
	path := b.original(snapshot).Memory
	if path == "" || host.IsMemory(path) {
		return ""
	}
	return "; its memory stays in " + path + ", which another program has made"
}

// planMemory lets the guest go on from the memory of the snapshot, if there is one and nothing speaks
// against it.
func (s *Restoration) planMemory(b *builder) {
	path := s.Snapshot.Memory
	if path == "" || s.o.WithoutMemory || len(b.plan.Refused) > 0 {
		return
	}
	if s.o.NoStart || len(s.o.Disks) > 0 {
		why := "the guest is not to run (--no-start)"
		if !s.o.NoStart {
			why = "not all disks go back"
		}
		s.warnings = append(s.warnings, "the memory of the snapshot, "+path+", is not used: "+why)
		return
	}
	if detail := s.memoryFault(b, path); detail != "" {
		b.refuse(host.CodeMemory, path, detail+": say --without-memory, and the guest does not go on from it")
		return
	}
	s.Memory = path
	b.add(Step{Op: OpGoOn, Snapshot: s.Snapshot.Name, Path: path, Bytes: b.w.Left[path].Allocated, Reason: "the guest goes on from the memory that it had then"})
}

// memoryFault says why the guest cannot go on from the file, or "". That libvirt can read it is for who carries
// the plan out to see.
func (s *Restoration) memoryFault(b *builder, path string) string {
	if _, there := b.w.Left[path]; !there {
		return "the memory of the snapshot is gone"
	}
	for i := range s.Snapshot.Disks {
		sd := &s.Snapshot.Disks[i]
		switch disk := b.disk(sd.Target); {
		case s.switched(sd.Target), disk != nil && !isWritable(disk), disk == nil && sd.Overlay == "":
		case disk == nil:
			return "the guest had the disk " + sd.Target + " then, which was taken out since"
		default:
			return "the guest had the disk " + sd.Target + " then, which does not go back"
		}
	}
	return ""
}
