package rotate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A refusalCase breaks one thing of a domain with two snapshots on one disk.
type refusalCase struct {
	code   string
	name   string
	break_ func(h *hosttest.Host, web *hosttest.Domain) // before the host is looked at
	rule   func(r *policy.Rule)
	path   string // of the refusal, or ""
	detail string // part of it
	others bool   // further refusals may follow
}

func onImage(name string, do func(*hosttest.Image)) func(*hosttest.Host, *hosttest.Domain) {
	return func(h *hosttest.Host, _ *hosttest.Domain) { h.Change(h.Img(name), do) }
}

func onDisk(do func(*host.Disk)) func(*hosttest.Host, *hosttest.Domain) {
	return func(_ *hosttest.Host, web *hosttest.Domain) { do(&web.Disks[0]) }
}

func refusals() []refusalCase {
	return []refusalCase{
		{code: host.CodeRemote, break_: func(h *hosttest.Host, _ *hosttest.Domain) { h.IsRemote = true }, detail: "another host"},
		{code: host.CodeUnreadable, name: "domain", break_: func(_ *hosttest.Host, web *hosttest.Domain) { web.Problem = "no such thing" }, detail: "no such thing"},
		{code: host.CodeManagedSave, break_: func(_ *hosttest.Host, web *hosttest.Domain) { web.ManagedSave = true }, detail: "virsh managedsave-remove"},
		{code: host.CodeTransient, break_: func(_ *hosttest.Host, web *hosttest.Domain) { web.Transient = true }, detail: "no persistent configuration"},
		{code: host.CodeInternal, name: "snapshot", break_: func(_ *hosttest.Host, web *hosttest.Domain) { web.Snapshots[1].Internal = true }, detail: "snapshot S11 is an internal one"},
		{code: host.CodeInternal, name: "image", break_: onImage("web.qcow2", func(i *hosttest.Image) { i.Internal = 3 }), path: "web", detail: "3 internal snapshots"},
		{code: host.CodeState, name: "migrating", break_: func(_ *hosttest.Host, web *hosttest.Domain) { web.State = "migrating" }, detail: "is migrating"},
		{code: host.CodeState, name: "busy", break_: func(_ *hosttest.Host, web *hosttest.Domain) { web.Busy = "a snapshot" }, detail: "at work on the guest (a snapshot)"},
		{code: host.CodeNetworkDisk, break_: onDisk(func(d *host.Disk) { d.Kind = "network" }), path: "vda"},
		{code: host.CodeVolumeDisk, name: "disk", break_: onDisk(func(d *host.Disk) { d.Kind = "volume"; missVolume(d.Active()) }), path: "vda", detail: "pool default is stopped"},
		{code: host.CodeVolumeDisk, name: "layer", break_: onDisk(func(d *host.Disk) { missVolume(&d.Chain[0]) }), path: "vda", detail: "pool default is stopped"},
		{code: host.CodeDiskKind, name: "disk", break_: onDisk(func(d *host.Disk) { d.Kind = "vhostuser" }), path: "vda", detail: `"vhostuser"`},
		{code: host.CodeDiskKind, name: "lun", break_: onDisk(func(d *host.Disk) { d.Device = "lun" }), path: "vda", detail: "lun"},
		{code: host.CodeDiskKind, name: "layer", break_: onDisk(func(d *host.Disk) { d.Chain[0].Kind = "network" }), path: "web", detail: `"network"`},
		{code: host.CodeShareable, break_: onDisk(func(d *host.Disk) { d.Shareable = true }), path: "vda", detail: "shareable"},
		{code: host.CodeTransDisk, break_: onDisk(func(d *host.Disk) { d.Transient = true }), path: "vda", detail: "<transient/>"},
		{code: host.CodeEncrypted, name: "disk", break_: onDisk(func(d *host.Disk) { d.Encrypted = true }), path: "vda", detail: "encrypted"},
		{code: host.CodeEncrypted, name: "image", break_: onImage("web.qcow2", func(i *hosttest.Image) { i.Encrypted = true }), path: "web", detail: "encrypted"},
		{code: host.CodeDataFile, break_: onImage("web.qcow2", func(i *hosttest.Image) { i.DataFile = true }), path: "web", detail: "another file"},
		{code: host.CodeCorrupt, break_: onImage("web."+hosttest.Name(10)+".qcow2", func(i *hosttest.Image) { i.Corrupt = true }), path: "web.S10", detail: "qemu-img check"},
		{code: host.CodeFormat, break_: onDisk(func(d *host.Disk) { d.Chain[0].Format = "vmdk" }), path: "web", detail: `"vmdk"`},
		{code: host.CodeUnreadable, name: "file gone", break_: func(h *hosttest.Host, _ *hosttest.Domain) { hosttest.Must(os.Remove(h.Img("web.qcow2"))) }, path: "web", detail: "no such file"},
		{code: host.CodeUnreadable, name: "header", break_: func(h *hosttest.Host, _ *hosttest.Domain) {
			hosttest.Must(os.WriteFile(h.Img("web.qcow2"), []byte("?"), 0o600))
		}, path: "web", detail: "malformed"},
		{code: host.CodeUnreadable, name: "disk without a chain", break_: onDisk(func(d *host.Disk) { d.Chain = nil }), path: "vda", detail: "names no image"},
		{code: host.CodeUnreadable, name: "a target twice", break_: func(_ *hosttest.Host, web *hosttest.Domain) {
			web.Disks = append(web.Disks, host.Disk{Target: "vda", Device: "cdrom", Kind: "file", ReadOnly: true})
		}, path: "vda", detail: "two disks"},
		{code: host.CodeStale, name: "state pulled away by hand", break_: func(h *hosttest.Host, web *hosttest.Domain) {
			h.Create("old.qcow2", nil)
			web.Snapshots[1].Disks[0].State = []string{h.Img("old.qcow2")}
		}, path: "old", detail: "snapshot S11 has its state of vda there"},
		{code: host.CodeForeignOverlay, break_: func(h *hosttest.Host, web *hosttest.Domain) {
			disk := &web.Disks[0]
			h.Create("backup.qcow2", disk.Chain)
			disk.Chain = append(disk.Chain, host.Layer{Path: h.Img("backup.qcow2"), Format: "qcow2", Kind: "file"})
			disk.Inactive = host.Paths(disk.Chain)
		}, path: "backup", detail: "another program"},
		{code: host.CodeShared, break_: func(h *hosttest.Host, web *hosttest.Domain) {
			other := h.Add("other")
			other.State = host.ShutOff
			h.Disk(other, "vda", "web.qcow2", "web."+hosttest.Name(10)+".qcow2", "web."+hosttest.Name(11)+".qcow2")
		}, path: "web.S11", detail: "disk other/vda"},
		{code: host.CodeIntent, break_: func(h *hosttest.Host, _ *hosttest.Domain) {
			hosttest.Must(os.Mkdir(filepath.Join(h.Dir, "state/intents"), 0o700))
			hosttest.Must(os.WriteFile(filepath.Join(h.Dir, "state/intents/uuid-of-web.json"), []byte("{"), 0o600))
		}, detail: "intent of an earlier run"},
		{code: host.CodeMismatch, name: "other backing file", break_: onImage("web."+hosttest.Name(11)+".qcow2", func(i *hosttest.Image) { i.Backing = "/else.qcow2" }),
			path: "web.S11", detail: `the backing file "/else`},
		{code: host.CodeMismatch, name: "no backing file", break_: onImage("web."+hosttest.Name(11)+".qcow2", func(i *hosttest.Image) { i.Backing = "" }),
			path: "web.S11", detail: "names no backing file"},
		{code: host.CodeMismatch, name: "base is none", break_: onImage("web.qcow2", func(i *hosttest.Image) { i.Backing = "below.qcow2" }),
			path: "web", detail: `names the backing file "below"`},
		{code: host.CodeMismatch, name: "other backing format", break_: onImage("web."+hosttest.Name(10)+".qcow2", func(i *hosttest.Image) { i.BackingFormat = "raw" }),
			path: "web.S10", detail: "takes web for raw, libvirt for qcow2"},
		{code: host.CodeInactive, name: "names another layer", break_: onDisk(func(d *host.Disk) { d.Inactive = d.Inactive[:2] }),
			path: "web.S11", detail: "its persistent configuration names web.S10"},
		{code: host.CodeLiveOnly, break_: onDisk(func(d *host.Disk) { d.Inactive = nil }), path: "vda", detail: "attach-device with --config"},
		{code: host.CodeInactive, name: "is longer", break_: onDisk(func(d *host.Disk) { d.Inactive = append([]string{"/more"}, d.Inactive...) }),
			path: "web.S11", detail: "longer chain"},
		{code: host.CodeNoDisk, name: "policy covers none", rule: func(r *policy.Rule) { r.Disks = []string{"sd*"} }, detail: "none of the domain's writable disks"},
		{code: host.CodeNoDisk, name: "only a CD-ROM", break_: onDisk(func(d *host.Disk) { d.Device = "cdrom" })},
		{code: host.CodeNoDisk, name: "read-only", break_: onDisk(func(d *host.Disk) { d.ReadOnly = true })},
		{code: host.CodeBlockJob, break_: func(h *hosttest.Host, _ *hosttest.Domain) { h.Jobs["web/vda"] = &hosttest.Job{} }, path: "vda", detail: `type "commit"`},
		{code: host.CodeIOError, break_: func(_ *hosttest.Host, web *hosttest.Domain) { web.State, web.IOError = host.Paused, true }, detail: "I/O error"},
		{code: host.CodeNoGuestAgent, rule: func(r *policy.Rule) { r.Quiesce = policy.QuiesceYes }, detail: "no guest agent"},
		{code: host.CodeChainLong, rule: func(r *policy.Rule) { r.MaxChain = 3 }, path: "vda", detail: "4 layers long: max_chain is 3"},
		{code: host.CodeOverlayDir, name: "not there", rule: func(r *policy.Rule) { r.OverlayDir = "/no/such/directory" }, path: "/no/such/directory"},
		{code: host.CodeNameTooLong, rule: func(r *policy.Rule) { r.Name = strings.Repeat("n", 240) }, detail: "255 bytes"},
		{code: host.CodeNoSpace, name: "snapshot", rule: func(r *policy.Rule) { r.MinFree = policy.MinFree{Percent: 60} },
			path: "web.S12", detail: "an overlay there can need 1.0 MiB: of 50.0 GiB free on its file system, min_free = 60% keeps 60.0 GiB"},
		{code: host.CodeNoSpace, name: "file system not known", break_: func(h *hosttest.Host, _ *hosttest.Domain) {
			h.Space = func(string) (vfs.Space, error) { return vfs.Space{}, os.ErrPermission }
		}, others: true, rule: func(r *policy.Rule) { r.Keep.Last = 1 }, path: "web", detail: "not known"},
	}
}

func TestRefusals(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range refusals() {
		seen[c.code] = true
		t.Run(strings.TrimSpace(c.code+" "+c.name), func(t *testing.T) {
			h := hosttest.New(t)
			web := h.Add("web")
			one(10, 11)(h, web)
			r := rule(3)
			if c.break_ != nil {
				c.break_(h, web)
			}
			if c.rule != nil {
				c.rule(r)
			}
			p := planOf(h, t, rotator(h, r), "web")
			if len(p.Steps) > 0 || p.Result != decide.ResultRefused {
				t.Errorf("%s, with steps %v", p.Result, lines(h, t, p.Steps))
			}
			if len(p.Refused) == 0 || len(p.Refused) > 1 && !c.others {
				t.Fatalf("refused: %+v", p.Refused)
			}
			c.compare(t, h, p.Refused)
		})
	}
	for _, code := range []string{host.CodeSize, host.CodeLeftover} { // in tests of their own
		seen[code] = true
	}
	for _, code := range allCodes() {
		if !seen[code] {
			t.Errorf("no test of code %q", code)
		}
	}
}

func (c *refusalCase) compare(t *testing.T, h *hosttest.Host, refused []decide.Refusal) {
	t.Helper()
	for _, r := range refused {
		if r.Code != c.code {
			continue
		}
		if path := h.Brief(r.Path); c.path != "" && path != c.path || c.path == "" && c.code != host.CodeNameTooLong && path != "" {
			t.Errorf("path: %q, want %q", path, c.path)
		}
		if !strings.Contains(h.Brief(r.Detail), c.detail) || r.Detail == "" {
			t.Errorf("detail: %q, want %q", h.Brief(r.Detail), c.detail)
		}
		return
	}
	t.Errorf("refused: %+v, want %q", refused, c.code)
}

// missVolume makes a layer a volume of a pool that is stopped.
func missVolume(l *host.Layer) {
	v := host.Volume{Pool: "default", Name: "web.qcow2"}
	l.Kind, l.Volume, l.Missing, l.Path, l.Problem = host.KindVolume, v, host.PoolStopped, v.String(), "storage pool default is stopped"
}

func allCodes() []string {
	return []string{host.CodeRemote, host.CodeState, host.CodeTransient, host.CodeManagedSave, host.CodeInternal,
		host.CodeBlockJob, host.CodeNetworkDisk, host.CodeVolumeDisk, host.CodeDiskKind, host.CodeShareable, host.CodeTransDisk, host.CodeEncrypted,
		host.CodeDataFile, host.CodeFormat, host.CodeCorrupt, host.CodeUnreadable, host.CodeMismatch, host.CodeInactive, host.CodeNoDisk, host.CodeOverlayDir,
		host.CodeNameTooLong, host.CodeChainLong, host.CodeNoSpace, host.CodeSize, host.CodeIOError, host.CodeLeftover, host.CodeNoGuestAgent}
}

// What the policy leaves out is no reason to refuse the rest.
func TestAnExcludedDiskMayBeAnything(t *testing.T) {
	s := shape{rule: with(rule(2), func(r *policy.Rule) { r.Disks = []string{"vda"} }),
		build: func(h *hosttest.Host, web *hosttest.Domain) {
			one(10, 11)(h, web)
			h.Disk(web, "vdb", "data.qcow2")
			web.Disks[1].Shareable, web.Disks[1].Encrypted = true, true
		}, steps: `
		snapshot S12 vda: web.S12 on web.S11
		drop-metadata S10
		commit vda: web.S10 into web
		redefine S11
		redefine S12
		delete web.S10`}
	s.check(t)
}

func TestEveryReasonIsTold(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(10, 11)(h, web)
	h.Disk(web, "vdb", "data.qcow2")
	web.ManagedSave, web.Transient = true, true
	web.Disks[0].Shareable, web.Disks[1].Encrypted = true, true
	p := planOf(h, t, rotator(h, rule(2)), "web")
	codes := ""
	for _, r := range p.Refused {
		codes += r.Code + " "
	}
	if codes != "managed-save transient shareable-disk encrypted " {
		t.Errorf("codes: %s", codes)
	}
}

func TestMergesAreRefusedWithFigures(t *testing.T) {
	const gib = 1 << 30
	cases := []struct {
		name, code, path, detail string
		change                   func(w *observe.World, web *host.Domain, r *policy.Rule)
	}{
		{"no space", host.CodeNoSpace, "web", "merging web.S9 into it can need 300.0 MiB: of 50.0 GiB free on its file system, min_free = 50GiB keeps 50.0 GiB",
			func(_ *observe.World, web *host.Domain, r *policy.Rule) {
				web.Disks[0].Chain[1].Allocated = 300 << 20
				r.MinFree = policy.MinFree{Size: 50 * gib}
			}},
		{"never more than the disk's size", host.CodeNoSpace, "web", "can need 25.2 MiB",
			func(_ *observe.World, web *host.Domain, r *policy.Rule) {
				web.Disks[0].Chain[0].Allocated = 1000 << 20
				web.Disks[0].Chain[1].Allocated = 900 << 20
				r.MinFree = policy.MinFree{Size: 50 * gib}
			}},
		{"raw block device too small", host.CodeSize, "web", "can need 2.0 GiB: the device has 1.0 GiB",
			func(_ *observe.World, web *host.Domain, _ *policy.Rule) {
				base := &web.Disks[0].Chain[0]
				base.Kind, base.Format, base.Allocated = "block", "raw", gib
				base.Image.Format = "raw"
				web.Disks[0].Chain[1].Image.BackingFormat = "raw"
				web.Disks[0].Chain[1].Size = 2 * gib
			}},
		{"qcow2 block device too small for the tables", host.CodeSize, "web", "can need 1.0 GiB: the device has 1.0 GiB",
			func(_ *observe.World, web *host.Domain, _ *policy.Rule) {
				base := &web.Disks[0].Chain[0]
				base.Kind, base.Allocated = "block", gib
			}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := hosttest.New(t)
			one(9, 10, 11)(h, h.Add("web"))
			r := rule(2)
			_, w, err := rotator(h, r).Plan(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			c.change(w, w.Domain("web"), r)
			p := decide.Decide(w, w.Domain("web"), r, hosttest.Hour(12), coalesce())
			if len(p.Steps) != 0 || len(p.Refused) != 1 {
				t.Fatalf("steps %v, refused %+v", lines(h, t, p.Steps), p.Refused)
			}
			have := p.Refused[0]
			if have.Code != c.code || h.Brief(have.Path) != c.path || !strings.Contains(h.Brief(have.Detail), c.detail) {
				t.Errorf("%+v, want %s %s %s", have, c.code, c.path, c.detail)
			}
		})
	}
}
