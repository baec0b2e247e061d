package initramfs

import (
	"fmt"
	"path/filepath"
)

// Packages is a directory in which packages of a distribution are unpacked.
type Packages string

// Find returns the file that matches the first pattern that any file matches.
func (p Packages) Find(what string, patterns ...string) (string, error) {
	for _, pattern := range patterns {
		if found, err := filepath.Glob(filepath.Join(string(p), pattern)); err != nil || len(found) > 0 {
			return found[0], err
		}
	}
	return "", fmt.Errorf("a Linux guest needs a %s below %s, where a script tools.sh puts it", what, p)
}

// Program finds one by its name.
func (p Packages) Program(name string) (string, error) {
	return p.Find(name, "usr/sbin/"+name, "usr/bin/"+name, "sbin/"+name, "bin/"+name)
}

// Kernel finds the image of the kernel.
func (p Packages) Kernel() (string, error) {
	return p.Find("kernel", "boot/vmlinuz-*", "lib/modules/*/vmlinuz", "usr/lib/modules/*/vmlinuz")
}

// KernelModules finds the directory of its modules.
func (p Packages) KernelModules() (string, error) {
	dir, err := p.Find("directory of kernel modules", "lib/modules/*/kernel", "usr/lib/modules/*/kernel")
	return filepath.Dir(dir), err
}
