// Package xapi reads a live XenServer or XCP-ng pool over its API: which guests there are, and
// their disks with all snapshots, as VHDs that build on each other.
//
// The calls are those of the XenAPI reference by JSON-RPC 2.0 (doc/content/xen-api/wire-protocol.md
// of xapi-project/xen-api), disks come by GET /export_raw_vdi (topics/snapshots.md there): each in
// full, or as what has changed since an earlier one.
//
//	c, err := xapi.Dial(ctx, xapi.Config{URL: "https://xen1", User: "root", Password: password})
//	…
//	defer c.Logout(ctx)
//	inventory, err := c.Inventory(ctx)
//	vm, err := inventory.Find("web")
//	plan := inventory.Plan(vm, nil)
//	p := xapi.Puller{Client: c, Dir: "/srv/pulled"}
//	result, err := p.Pull(ctx, plan)
//
// Invariants:
//   - nothing is changed on the host, but for the snapshot that Snapshot is asked for;
//   - the certificate is verified, by a list of authorities or by its fingerprint, at each host
//     that a session is shown to; no password and no session is in an error;
//   - what a host says is bounded and no path: files are called by UUIDs that are such;
//   - under its name a VHD is there whole, checked and durable, or not at all.
package xapi
