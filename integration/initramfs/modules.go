package initramfs

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Modules adds modules of the kernel in dir, with those that they need. The names of their files in
// /modules have the order in which they must be loaded. With a question mark at its end a
// name is one that not all kernels have.
func (a *Archive) Modules(dir string, names []string) error {
	m, err := newModuleTree(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		name, optional := strings.CutSuffix(name, "?")
		if _, there := m.files[name]; optional && !there {
			continue
		}
		if err := m.load(name); err != nil {
			return err
		}
	}
	for i, data := range m.order {
		a.Add(fmt.Sprintf("modules/%02d.ko", i), File|0o644, data)
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
	out, err := exec.Command(program, "-dc", path).Output()
	if err != nil {
		return nil, fmt.Errorf("%s -dc %s: %w", program, path, err)
	}
	return out, nil
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
