package guestfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// By the host's kernel: nbdfuse makes a file of a disk, in mounts of its own; the partition is
// found there by programs, not by the kernel; a loop device that is read-only and goes with its
// last user makes a block device of it, and that is mounted without replaying a journal.

// ErrNotRoot says that only root can let the kernel mount something.
var ErrNotRoot = errors.New("--host-kernel needs root")

// readOnly are the options with which a file system is not written to, not even by a journal
// that is replayed; the device is read-only in any case.
var readOnly = map[string][]string{
	"ext3": {"noload"}, "ext4": {"noload"}, "xfs": {"norecovery", "nouuid"}, "btrfs": {"rescue=nologreplay"}, "f2fs": {"norecovery"},
}

// drivers are those whose name is not that of the file system.
var drivers = map[string]string{"ntfs": "ntfs3", "ext3": "ext4"}

func (v *View) byKernel(ctx context.Context, disks []Disk, o *Options) error {
	if !canMount() {
		return ErrNotRoot
	}
	if len(o.Keys) > 0 {
		return errors.New("--key and --host-kernel exclude each other: the host's kernel is given no key; leave --host-kernel out")
	}
	var all []partition
	for i := range disks {
		file, err := v.asFile(ctx, &disks[i], v.servers[i].Socket)
		if err != nil {
			return err
		}
		found, err := partitionsOf(ctx, disks[i].Target, file)
		if err != nil {
			return err
		}
		all = append(all, found...)
	}
	chosen, err := choosePartition(strings.TrimPrefix(o.FileSystem, "/dev/"), all)
	if err != nil {
		return err
	}
	v.FileSystem = chosen.Name
	return v.mount(chosen)
}

// asFile makes a file of a disk.
func (v *View) asFile(ctx context.Context, d *Disk, socket string) (string, error) {
	dir := filepath.Join(v.dir, d.Target)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	p, err := start("nbdfuse", true, nil, "-r", filepath.Join(dir, d.Target), "--unix", socket)
	if err != nil {
		return "", err
	}
	v.helpers = append(v.helpers, p)
	file := p.path(filepath.Join(dir, d.Target))
	return file, p.awaitBegin(ctx, func() bool {
		_, err := os.Stat(file)
		return err == nil
	})
}

// choosePartition says why what is wanted, or all that there is, cannot be mounted.
func choosePartition(wanted string, all []partition) (*partition, error) {
	var found []FileSystem
	var others []string
	for i := range all {
		switch p := &all[i]; {
		case p.Usage == "filesystem":
			found = append(found, p.FileSystem)
		case p.Type != "" && p.Type != "swap":
			if wanted == p.Name {
				return nil, errors.New(p.Name + " " + notByKernel(p.Type))
			}
			others = append(others, p.Name+" "+notByKernel(p.Type))
		}
	}
	chosen, err := choose(wanted, found, strings.Join(others, "; "))
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Name == chosen.Name {
			return &all[i], nil
		}
	}
	return nil, err
}

// notByKernel says why something that holds file systems is left to libguestfs.
func notByKernel(kind string) string {
	switch kind {
	case "LVM2_member":
		return "is a physical volume of LVM: its volumes would have to be made known to this host's device mapper, where they could be taken for its own; leave --host-kernel out"
	case "crypto_LUKS":
		return "is encrypted (LUKS): leave --host-kernel out, and give the key with --key"
	case "linux_raid_member":
		return "is part of a RAID, which this host could take for its own: leave --host-kernel out"
	}
	return "is " + kind + ", which is not mounted by the host's kernel: leave --host-kernel out"
}

// mount mounts one, at no directory or where all can see it.
func (v *View) mount(p *partition) error {
	device, err := attach(p)
	if err != nil {
		return fmt.Errorf("loop device: %w", err)
	}
	defer device.Close() // it goes with its last user: this, unless it is mounted
	mounted, err := mountReadOnly(p.Type, device.Name())
	if err != nil {
		return fmt.Errorf("%s: %w", p.FileSystem, err)
	}
	root := os.NewFile(uintptr(mounted), "/")
	if v.at == "" {
		v.Root = root
		return nil
	}
	defer root.Close() // else it could not be unmounted
	if err := unix.MoveMount(mounted, "", unix.AT_FDCWD, v.at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount at %s: %w", v.at, err)
	}
	return nil
}

// attach makes a loop device of a partition.
func attach(p *partition) (*os.File, error) {
	file, err := os.Open(p.file)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDONLY, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{
			Offset: uint64(p.offset), Sizelimit: uint64(p.size), Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR,
			File_name: loopName(os.Getpid()),
		}})
		if err == nil {
			return device, nil
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) { // else another process was faster
			return nil, err
		}
	}
}

// mountReadOnly returns a mount that is at no directory.
func mountReadOnly(kind, device string) (int, error) {
	driver := kind
	if d, ok := drivers[kind]; ok {
		driver = d
	}
	fs, err := unix.Fsopen(driver, unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) {
		return 0, fmt.Errorf("this host's kernel has no driver %s: leave --host-kernel out", driver)
	}
	if err != nil {
		return 0, err
	}
	defer unix.Close(fs)
	if err := configure(fs, device, readOnly[kind]); err != nil {
		return 0, fmt.Errorf("%w%s", err, logOf(fs))
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}

func configure(fs int, device string, options []string) error {
	err := errors.Join(unix.FsconfigSetString(fs, "source", device), unix.FsconfigSetFlag(fs, "ro"))
	for _, o := range options {
		if key, value, ok := strings.Cut(o, "="); ok {
			err = errors.Join(err, unix.FsconfigSetString(fs, key, value))
		} else {
			err = errors.Join(err, unix.FsconfigSetFlag(fs, o))
		}
	}
	if err != nil {
		return err
	}
	return unix.FsconfigCreate(fs)
}

// logOf is what the kernel says of a mount that failed: each line begins with its severity.
func logOf(fs int) string {
	buf := make([]byte, 4096)
	text := ""
	for range 20 {
		n, err := unix.Read(fs, buf)
		if err != nil || n <= 2 {
			break
		}
		text += ": " + strings.TrimSpace(string(buf[2:n]))
	}
	return text
}
