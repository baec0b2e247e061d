package guest

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// linuxCache is where integration/tools.sh unpacks the packages of Linux guests,
// below the user's cache directory; they are not installed.
const linuxCache = "virt-rotate/linux-guest"

// linuxModules are what the guest needs and the kernel may not have built in; with a
// question mark, what only some kernels have: those that look for the checksum of
// ext4 by its name.
var linuxModules = []string{"virtio_pci", "virtio_blk", "virtio_console", "crc32c_generic?", "ext4"}

// linuxPackages is the directory of the unpacked packages: a kernel, busybox,
// linked statically, and the QEMU guest agent.
type linuxPackages string

// find returns the file that matches the first pattern that any file matches.
func (p linuxPackages) find(what string, patterns ...string) (string, error) {
	for _, pattern := range patterns {
		if found, err := filepath.Glob(filepath.Join(string(p), pattern)); err != nil || len(found) > 0 {
			return found[0], err
		}
	}
	return "", fmt.Errorf("a Linux guest needs a %s below %s, where integration/tools.sh puts it", what, p)
}

func (p linuxPackages) program(name string) (string, error) {
	return p.find(name, "usr/sbin/"+name, "usr/bin/"+name, "sbin/"+name, "bin/"+name)
}

// initramfs makes the first file system of a Linux guest.
func (p linuxPackages) initramfs() ([]byte, error) {
	busybox, err := p.program("busybox")
	if err != nil {
		return nil, err
	}
	agent, err := p.program("qemu-ga")
	if err != nil {
		return nil, err
	}
	modules, err := p.find("directory of kernel modules", "lib/modules/*/kernel", "usr/lib/modules/*/kernel")
	if err != nil {
		return nil, err
	}
	var a cpio
	for _, dir := range []string{"bin", "dev", "mnt", "modules", "proc", "run", "sys", "tmp"} {
		a.add(dir, cpioDir|0o755, nil)
	}
	a.add("init", cpioFile|0o755, []byte(linuxInit))
	for name, path := range map[string]string{"bin/busybox": busybox, "bin/qemu-ga": agent} {
		if err := a.copy(name, path); err != nil {
			return nil, err
		}
	}
	if err := a.libraries(agent); err != nil {
		return nil, err
	}
	if err := a.modules(filepath.Dir(modules)); err != nil {
		return nil, err
	}
	return a.end(), nil
}

var libraryPath = regexp.MustCompile(`(?m)^\s+(?:\S+ => )?(/\S+) \(0x`)

// libraries adds this machine's libraries for a program of the same distribution.
func (a *cpio) libraries(program string) error {
	out, err := output(exec.Command("ldd", program))
	if err != nil {
		return err
	}
	if strings.Contains(out, "not found") {
		return fmt.Errorf("%s: libraries are missing:\n%s", program, out)
	}
	for _, m := range libraryPath.FindAllStringSubmatch(out, -1) {
		name := strings.TrimPrefix(m[1], "/")
		a.parents(name)
		if err := a.copy(name, m[1]); err != nil {
			return err
		}
	}
	return nil
}

// modules adds the modules of the kernel in dir. Their names have the order in which
// they must be loaded.
func (a *cpio) modules(dir string) error {
	m, err := newModuleTree(dir)
	if err != nil {
		return err
	}
	for _, name := range linuxModules {
		name, optional := strings.CutSuffix(name, "?")
		if _, there := m.files[name]; optional && !there {
			continue
		}
		if err := m.load(name); err != nil {
			return err
		}
	}
	for i, data := range m.order {
		a.add(fmt.Sprintf("modules/%02d.ko", i), cpioFile|0o644, data)
	}
	return nil
}

// A moduleTree finds modules with what they depend on.
type moduleTree struct {
	files map[string]string // paths by name
	seen  map[string]bool   // built in, or in order already
	order [][]byte
}

func newModuleTree(dir string) (*moduleTree, error) {
	m := &moduleTree{files: map[string]string{}, seen: map[string]bool{}}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	for _, file := range strings.Fields(string(builtin)) {
		m.seen[moduleName(file)] = true
	}
	return m, filepath.WalkDir(filepath.Join(dir, "kernel"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			m.files[moduleName(path)] = path
		}
		return err
	})
}

// moduleName is the name that the kernel gives the module in the file.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// load appends the module, after those that it depends on.
func (m *moduleTree) load(name string) error {
	if m.seen[name] {
		return nil
	}
	m.seen[name] = true
	path, ok := m.files[name]
	if !ok {
		return fmt.Errorf("a Linux guest needs the kernel module %s, which its kernel does not have", name)
	}
	data, err := readModule(path)
	if err != nil {
		return err
	}
	depends, err := moduleDepends(data)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, d := range depends {
		if err := m.load(moduleName(d)); err != nil {
			return err
		}
	}
	m.order = append(m.order, data)
	return nil
}

// readModule reads a module, which some distributions compress.
func readModule(path string) ([]byte, error) {
	program := map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"}[filepath.Ext(path)]
	if program == "" {
		return os.ReadFile(path)
	}
	out, err := output(exec.Command(program, "-dc", path))
	return []byte(out), err
}

// moduleDepends reads which modules one needs from its section of properties.
func moduleDepends(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for _, property := range strings.Split(string(info), "\x00") {
		if list, ok := strings.CutPrefix(property, "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}

// Types of cpio entries, as in stat.
const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
)

// A cpio is an archive in the format "newc", which the kernel unpacks: see its
// Documentation/driver-api/early-userspace/buffer-format.rst.
type cpio struct {
	b    bytes.Buffer
	dirs map[string]bool
}

// add appends an entry. All belong to root.
func (a *cpio) add(name string, mode int, data []byte) {
	const magic, owner, links, mtime, device, check = "070701", 0, 1, 0, 0, 0
	inode := a.b.Len() // any number, as long as they differ
	a.b.WriteString(magic)
	for _, field := range []int{inode, mode, owner, owner, links, mtime, len(data), device, device, device, device, len(name) + 1, check} {
		fmt.Fprintf(&a.b, "%08x", field)
	}
	a.b.WriteString(name + "\x00")
	a.pad()
	a.b.Write(data)
	a.pad()
}

// pad fills up to a multiple of 4 bytes.
func (a *cpio) pad() { a.b.Write(make([]byte, -a.b.Len()&3)) }

// copy adds a file as a program.
func (a *cpio) copy(name, path string) error {
	data, err := os.ReadFile(path)
	a.add(name, cpioFile|0o755, data)
	return err
}

// parents adds the directories above name that are not there yet.
func (a *cpio) parents(name string) {
	if a.dirs == nil {
		a.dirs = map[string]bool{".": true}
	}
	if dir := filepath.Dir(name); !a.dirs[dir] {
		a.parents(dir)
		a.dirs[dir] = true
		a.add(dir, cpioDir|0o755, nil)
	}
}

func (a *cpio) end() []byte {
	a.add("TRAILER!!!", 0, nil)
	return a.b.Bytes()
}
