package guest

import "github.com/virt-rotate/virt-rotate/integration/initramfs"

// linuxCache is where integration/tools.sh unpacks the packages of Linux guests,
// below the user's cache directory; they are not installed.
const linuxCache = "virt-rotate/linux-guest"

// linuxModules are what the guest needs and the kernel may not have built in; with a
// question mark, what only some kernels have: those that look for the checksum of
// ext4 by its name.
var linuxModules = []string{"virtio_pci", "virtio_blk", "virtio_console", "crc32c_generic?", "ext4"}

// linuxArchive makes the first file system of a Linux guest, of busybox, linked statically, and the QEMU
// guest agent.
func linuxArchive(p initramfs.Packages) ([]byte, error) {
	var a initramfs.Archive
	for _, dir := range []string{"bin", "dev", "mnt", "modules", "proc", "run", "sys", "tmp"} {
		a.Add(dir, initramfs.Dir|0o755, nil)
	}
	a.Add("init", initramfs.File|0o755, []byte(linuxInit))
	for _, name := range []string{"busybox", "qemu-ga"} {
		path, err := p.Program(name)
		if err == nil {
			err = a.Copy("bin/"+name, path)
		}
		if err != nil {
			return nil, err
		}
	}
	agent, err := p.Program("qemu-ga")
	if err == nil {
		err = a.Libraries(agent)
	}
	if err != nil {
		return nil, err
	}
	modules, err := p.KernelModules()
	if err == nil {
		err = a.Modules(modules, linuxModules)
	}
	return a.End(), err
}
