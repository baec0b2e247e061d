package coord

import (
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/blockid"
)

// Block devices are on no storage that hosts have mounted, and any host that sees the disk below may have one. So each
// host tells, wherever it tells anything, which layers of its guests are block devices, and which disks it sees; by a Store
// also where no storage of files is.

const (
	devicesName = "block devices"
	devicesUUID = "devices" // stands for it in the keys of a Store
)

// OnDevices returns the storage that stands for all block devices; nil where no Store has what hosts tell of them.
func (f *Fleet) OnDevices() Storage {
	if f == nil || f.Store == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shares == nil {
		f.on, f.shares = map[string][]Storage{}, map[string]*share{}
	}
	return f.share("")
}

// Devices are the disks, volume groups and the like that this host sees.
func (f *Fleet) Devices() []string {
	if f.Visible != nil {
		return f.Visible()
	}
	return blockid.Sys{}.Visible()
}

// concerning leaves out guests of another host whose disks lie on what this host does not see: one with the same UUID here
// is another guest.
func (f *Fleet) concerning(told Told) Told {
	alone := func(g Guest) bool { return len(g.On) > 0 }
	if !slices.ContainsFunc(told.Guests, alone) {
		return told
	}
	here := f.Devices()
	told.Guests = slices.DeleteFunc(slices.Clone(told.Guests), func(g Guest) bool { return alone(g) && !Meet(g.On, here) })
	return told
}

// Meet tells whether two lists have a name in common. They may be another host's, of any length.
func Meet(a, b []string) bool {
	names := make(map[string]bool, len(a))
	for _, name := range a {
		names[name] = true
	}
	return slices.ContainsFunc(b, func(name string) bool { return names[name] })
}
