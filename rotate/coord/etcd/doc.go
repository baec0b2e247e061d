// Package etcd keeps in an etcd cluster what hosts with the same storage tell each other.
//
//	store := etcd.New(etcd.Config{Endpoints: []string{"https://etcd1:2379"}, CAFile: "/etc/pki/ca.pem"})
//	defer store.Close()
//	fleet := &coord.Fleet{StateDir: dir, Name: hostname, Store: store}
//
// Nothing is asked of the cluster before it is needed. All values change in transactions that are
// guarded by the revision they were decided on; a lease alone excludes nobody, since whoever
// has it may have been asleep while it ended.
package etcd
