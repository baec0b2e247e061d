package sr

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// fixProgram changes a guest for KVM where its disks lie.
const fixProgram = "virt-v2v-in-place"

// virtioWin is where the package of that name has the drivers that virt-v2v puts into Windows.
const virtioWin = "/usr/share/virtio-win"

// fix changes the guest for KVM in new layers, one above each disk: what is below stays, as one
// more snapshot. Where that fails the layers are taken away again, and nothing has changed but
// that people are told what to do. It tells whether the guest was changed.
func (d *target) fix(n *libvirthost.NewDomain) (fixed bool, err error) {
	if !d.Bool("fix-guest") {
		return false, nil
	}
	program, err := exec.LookPath(fixProgram)
	if err != nil {
		d.tell("%s is not installed (packages virt-v2v and nbdkit): the guest was not changed", fixProgram)
		d.byHand()
		return false, nil //nolint:nilerr // it is told
	}
	x, made, err := d.onTop(n)
	if err == nil {
		err = d.convertGuest(program, &x)
	}
	if err != nil {
		for _, m := range made {
			err = errors.Join(err, m.Discard())
		}
		if d.Ctx().Err() != nil {
			return false, fmt.Errorf("the images are there, but the domain %s was not defined: %w", d.name, err)
		}
		d.tell("the guest was not changed: %v", err)
		d.byHand()
		return false, nil
	}
	*n = x
	return true, d.afterFix(n)
}

// onTop is the domain with a new layer on each disk, and a snapshot of what is below.
func (d *target) onTop(n *libvirthost.NewDomain) (x libvirthost.NewDomain, made []*convert.Image, err error) {
	x = *n
	x.Disks = nil
	used := map[string]bool{}
	for _, s := range n.Snapshots {
		used[s.Name] = true
	}
	now := time.Now()
	snap := libvirthost.NewSnapshot{Time: now}
	snap.Name, snap.Description = namer(d.String("policy-name"))(now, "as it was on XenServer, before "+fixProgram, func(name string) bool { return !used[name] })
	for i, disk := range n.Disks {
		m, err := d.overlay(disk.Active, snap.Name)
		if m != nil {
			made = append(made, m)
		}
		if err != nil {
			return x, made, err
		}
		top := disk.Active
		top.Path = m.Path()
		x.Disks = append(x.Disks, libvirthost.NewDisk{Target: disk.Target, Active: top})
		snap.Disks = append(snap.Disks, libvirthost.NewState{Disk: i, Overlay: top.Path, State: d.chains[i]})
	}
	x.Snapshots = append(append([]libvirthost.NewSnapshot{}, n.Snapshots...), snap)
	return x, made, nil
}

// overlay makes an empty layer on an image, called as rotation calls that of the snapshot.
func (d *target) overlay(active host.Layer, snapshot string) (*convert.Image, error) {
	node, err := d.Store.Node(active.Path, active.Format)
	if err != nil {
		return nil, err
	}
	format, err := formats.Named(active.Format)
	if err != nil {
		return nil, err
	}
	dir, name := filepath.Split(strings.TrimSuffix(active.Path, ".qcow2"))
	if of := host.SnapshotOf(active.Path); of != "" {
		name = strings.TrimSuffix(name, "."+of)
	}
	o := images.DefaultOptions(format)
	o.Size, o.Backing, o.BackingFormat = node.Image.VirtualSize, filepath.Base(active.Path), active.Format
	m, err := convert.Make(d.Store.FS, filepath.Join(dir, name+"."+snapshot+".qcow2"), o.Maker, o.New)
	if err != nil {
		return nil, err
	}
	return m, m.Close()
}

// convertGuest has the program change what is on the disks of x.
func (d *target) convertGuest(program string, x *libvirthost.NewDomain) error {
	text, _, _, err := libvirthost.DomainXML(x.XML, x.Name, x.Disks)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "virt-rotate-fix-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "domain.xml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	d.tell("%s changes the guest: that takes minutes", fixProgram)
	cmd := exec.CommandContext(d.Ctx(), program, "-i", "libvirtxml", file)
	cmd.Env = append(os.Environ(), "LIBGUESTFS_BACKEND=direct") // libvirt's own user could not read the images
	cmd.Stdout, cmd.Stderr = d.Err, d.Err
	if d.Bool("quiet") {
		cmd.Stdout = nil
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", fixProgram, err)
	}
	return nil
}

// afterFix lets the guest have its disks on virtio, for which it has drivers now. Into Windows
// they come from a package of their own.
func (d *target) afterFix(n *libvirthost.NewDomain) error {
	d.tell("the guest was changed; the layers of snapshot %s are as XenServer had them", n.Snapshots[len(n.Snapshots)-1].Name)
	if d.guest == nil || !d.fresh || d.String("bus") != busAuto {
		return nil
	}
	if _, err := os.Stat(virtioWin); d.guest.Windows && err != nil {
		d.note("there is no %s, so the guest has got no drivers for virtio: its disks stay on IDE", virtioWin)
		return nil //nolint:nilerr // it is told
	}
	err := d.likeGuest(busVirtio)
	n.XML = d.like.XML
	return err
}

// byHand lists what is to be done in the guest.
func (d *target) byHand() {
	windows, linux := true, true
	if d.guest != nil && d.guest.OS != "" {
		windows, linux = d.guest.Windows, !d.guest.Windows
	}
	if linux {
		d.tell("in a Linux guest: /dev/xvda… is /dev/sda… or /dev/vda… now (/etc/fstab, GRUB's root= and device.map: better by UUID); " +
			"build the initramfs with virtio_blk, virtio_scsi, virtio_net, ahci and ata_piix (update-initramfs -u -k all; dracut -f --regenerate-all --no-hostonly); " +
			"console=hvc0 is console=ttyS0; eth0 or enX0 have other names (match them by MAC); remove xe-guest-utilities; install qemu-guest-agent")
	}
	if windows {
		d.tell("in a Windows guest: remove XenServer's tools and drivers while it still runs on XenServer, or boot on IDE and remove them here; " +
			"install the virtio-win drivers and the guest agent from its CD; with a small second disk on virtio first, so that viostor starts at boot; then virsh edit to virtio; set its addresses again")
	}
	d.tell("more of it: docs/migration.md, \"In the guest\"")
}
