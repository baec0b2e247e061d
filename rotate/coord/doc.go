// Package coord is what hosts that have the same storage tell each other: which layers the
// guests of each use (Users), whose a guest is (Owner), and who may merge just now (Slot).
//
//	fleet := &coord.Fleet{StateDir: dir, Shared: policy.Storage.Shared, Name: hostname}
//	for _, s := range fleet.On("/srv/images") {
//		peers, err := s.Others(ctx)
//	}
//
// There are three implementations: NewLocal, for storage of one host alone, which tells nobody
// anything; the one on the storage itself, in a directory .virt-rotate; and the one in a Store, as etcd
// is (rotate/coord/etcd), whose hosts tell the same on the storage, too. coordtest is what all of
// them have to pass.
//
// Invariants:
//   - nothing is written on storage of this host alone;
//   - what another host has told is read whole or not at all: a file that does not have the
//     checksum of its record stands for everything;
//   - a host that was told of once is known until it is forgotten by name;
//   - whatever is in .virt-rotate may have been written by anybody: it is bounded, checked,
//     and names no file that is opened;
//   - a host whose identity another one has taken gets a new one.
package coord
