package nfs

import (
	_ "embed"
	"errors"
	"os"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/integration/initramfs"
)

// Where integration/tools.sh and tools.sh of this package unpack packages, below the user's cache directory.
const (
	linuxCache = "virt-rotate/linux-guest"
	nfsCache   = "virt-rotate/nfs-guest"
)

//go:embed init.sh
var initScript []byte

func modules() []string {
	return []string{"virtio_pci", "virtio_blk", "virtio_console", "virtio_net", "crc32c_generic?", "ext4", "nfsd", "nfsv3", "nfsv4", "sd_mod", "virtio_scsi"}
}

func programs() []string {
	return []string{"exportfs", "mount.nfs", "rpc.mountd", "rpc.nfsd", "rpc.statd", "rpcbind", "sm-notify"} //nolint:misspell // exportfs is one
}

// etc is what C's library and the services look at.
func etc() map[string]string {
	return map[string]string{
		"exports":       "/disk/export *(rw,no_root_squash,no_subtree_check,sync,fsid=0)\n",
		"group":         "root:x:0:\n",
		"hosts":         "127.0.0.1 localhost\n10.0.1.2 host1\n10.0.2.2 host2\n",
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\nrpc: files\n",
		"passwd":        "root:x:0:0:root:/:/bin/sh\n_rpc:x:0:0::/run:/bin/sh\n",
	}
}

// Boot is what all machines boot from: paths of files in dir.
type boot struct{ kernel, initrd string }

// newBoot makes the archive, with more programs, by name.
func newBoot(dir string, more map[string]string) (b boot, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return b, err
	}
	linux := initramfs.Packages(filepath.Join(cache, linuxCache))
	if b.kernel, err = linux.Kernel(); err != nil {
		return b, err
	}
	var a initramfs.Archive
	skeleton(&a)
	err = errors.Join(addLinux(&a, linux), addNFS(&a, initramfs.Packages(filepath.Join(cache, nfsCache))))
	for name, path := range more {
		err = errors.Join(err, a.Copy("bin/"+name, path))
	}
	if err != nil {
		return b, err
	}
	b.initrd = filepath.Join(dir, "initrd")
	return b, os.WriteFile(b.initrd, a.End(), 0o600)
}

func skeleton(a *initramfs.Archive) {
	for _, dir := range []string{"bin", "dev", "lib", "modules", "proc", "run/rpcbind", "srv", "sys", "tmp", "usr", "var/lib"} {
		a.Add(dir, initramfs.Dir|0o755, nil)
	}
	for _, link := range []string{"sbin", "usr/bin", "usr/sbin"} {
		a.Add(link, initramfs.Link|0o777, []byte("/bin"))
	}
	a.Add("var/run", initramfs.Link|0o777, []byte("/run"))
	a.Add("init", initramfs.File|0o755, initScript)
	for name, text := range etc() {
		a.Add("etc/"+name, initramfs.File|0o644, []byte(text))
	}
}

func addLinux(a *initramfs.Archive, linux initramfs.Packages) error {
	busybox, err := linux.Program("busybox")
	if err == nil {
		err = a.Copy("bin/busybox", busybox)
	}
	if err != nil {
		return err
	}
	dir, err := linux.KernelModules()
	if err != nil {
		return err
	}
	return a.Modules(dir, modules())
}

func addNFS(a *initramfs.Archive, root initramfs.Packages) error {
	var libraries []string
	for _, pattern := range []string{"lib/*-linux-gnu", "usr/lib/*-linux-gnu"} {
		dir, err := root.Find("directory of libraries", pattern)
		if err != nil {
			return err
		}
		libraries = append(libraries, dir)
	}
	for _, name := range programs() {
		path, err := root.Program(name)
		if err == nil {
			err = errors.Join(a.Copy("bin/"+name, path), a.Libraries(path, libraries...))
		}
		if err != nil {
			return err
		}
	}
	for _, name := range []string{"netconfig", "protocols", "rpc", "services"} {
		data, err := os.ReadFile(filepath.Join(string(root), "etc", name))
		if err != nil {
			return err
		}
		a.Add("etc/"+name, initramfs.File|0o644, data)
	}
	return nil
}
