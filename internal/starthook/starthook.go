// Package starthook is the hook by which libvirt asks virt-rotate before it starts a guest.
//
//	h := starthook.Hook{StateDir: dir}
//	err := h.Install([]string{"/usr/bin/virt-rotate", "fleet", "admit"})
//
// libvirt calls the executable files of /etc/libvirt/hooks/qemu.d (from version 6.5 on) with the guest's name and what is
// about to be done, gives them its XML, and starts no guest whose hook has failed. It looks for hooks as its daemon starts,
// so a file that is there proves nothing: the hook counts once the daemon has called it.
package starthook

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"golang.org/x/sys/unix"
)

// dir is where libvirt looks for hooks of QEMU's guests.
const dir = "/etc/libvirt/hooks/qemu.d"

// A Hook is that of this host.
type Hook struct {
	StateDir string          // of virt-rotate: that the hook was called is noted there
	Dir      string          // of libvirt's hooks; "": /etc/libvirt/hooks/qemu.d
	Callers  func() []string // the processes that have called this one, the next first; nil: as the kernel tells
}

// Path is the file that libvirt calls.
func (h Hook) Path() string { return filepath.Join(cmp.Or(h.Dir, dir), "virt-rotate") }

const text = `#!/bin/sh
# libvirt calls this before it starts a guest, and after it has ended: virt-rotate tells the
# other hosts, and no guest starts whose layers one of them merges. "virt-rotate fleet hook"
# has written it, and "virt-rotate fleet hook --remove" takes it away.
#
# Of all else that libvirt calls it for nothing may fail: it would end guests that run.
case $2-$3 in
prepare-begin) exec %[1]s "$@" ;;
esac
%[1]s "$@" >/dev/null 2>&1
exit 0
`

// Install writes the file; argv is the program that it runs, to which libvirt's arguments are added. A file that does the same
// stays as it is; another one that virt-rotate has not written is an error.
func (h Hook) Install(argv []string) error {
	var quoted []string
	for _, arg := range argv {
		quoted = append(quoted, "'"+strings.ReplaceAll(arg, "'", `'\''`)+"'")
	}
	want := fmt.Sprintf(text, strings.Join(quoted, " "))
	switch is, err := os.ReadFile(h.Path()); {
	case err == nil && string(is) == want:
		if _, called := h.is(); called {
			return nil // what libvirt has called stays as it is
		}
		return os.Chmod(h.Path(), 0o755)
	case err == nil && !ours(is):
		return fmt.Errorf("%s is there, and virt-rotate has not written it", h.Path())
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := os.MkdirAll(filepath.Dir(h.Path()), 0o755); err != nil {
		return err
	}
	if err := vfs.WriteFile(h.Path(), []byte(want), 0o644); err != nil {
		return err
	}
	return os.Chmod(h.Path(), 0o755) // not before it has its name: libvirt calls whatever can be called
}

// ours tells whether virt-rotate has written the file.
func ours(is []byte) bool {
	begin, _, _ := strings.Cut(text, "#\n")
	return strings.HasPrefix(string(is), begin)
}

// Remove takes the file away, if virt-rotate has written it.
func (h Hook) Remove() error {
	is, err := os.ReadFile(h.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !ours(is) {
		err = fmt.Errorf("%s: virt-rotate has not written it", h.Path())
	}
	if err != nil {
		return err
	}
	return vfs.Remove(h.Path())
}

// A call is what is noted of the last one: which file was called.
type call struct {
	Dev   uint64 `json:"dev"`
	Ino   uint64 `json:"ino"`
	Ctime int64  `json:"ctime"` // in nanoseconds since 1970
}

func (h Hook) proof() string { return filepath.Join(h.StateDir, "start-hook.json") }

// is looks at the file as it is now; false if libvirt would not call it, or it is not virt-rotate's.
func (h Hook) is() (call, bool) {
	var st unix.Stat_t
	if err := unix.Stat(h.Path(), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0 {
		return call{}, false
	}
	content, err := os.ReadFile(h.Path())
	return call{st.Dev, st.Ino, st.Ctim.Nano()}, err == nil && ours(content)
}

// Called notes that libvirt's daemon has called the file, if it is one that calls.
func (h Hook) Called() error {
	now, ok := h.is()
	if !ok || !h.byDaemon() || h.Asks() {
		return nil
	}
	data, err := json.Marshal(now)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(h.StateDir, 0o700); err != nil {
		return err
	}
	return vfs.WriteFile(h.proof(), append(data, '\n'), 0o600)
}

// byDaemon tells whether libvirt's daemon has called the file: it is the parent of this process, or of the shell that runs
// the file.
func (h Hook) byDaemon() bool {
	callers := h.Callers
	if callers == nil {
		callers = parents
	}
	return slices.ContainsFunc(callers(), func(name string) bool { return name == "libvirtd" || name == "virtqemud" })
}

// parents are the names of the processes above this one, the next two.
func parents() (names []string) {
	for pid := os.Getppid(); pid > 0 && len(names) < 2; {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // proc(5)
		if err != nil {
			break
		}
		name, above := "", 0
		for line := range strings.Lines(string(status)) {
			switch key, value, _ := strings.Cut(strings.TrimSpace(line), ":"); key {
			case "Name":
				name = strings.TrimSpace(value)
			case "PPid":
				above, _ = strconv.Atoi(strings.TrimSpace(value))
			}
		}
		names, pid = append(names, name), above
	}
	return names
}

// Asks tells whether libvirt calls the file, as it is now, before it starts a guest.
func (h Hook) Asks() bool {
	now, ok := h.is()
	if !ok {
		return false
	}
	data, err := os.ReadFile(h.proof())
	var was call
	return err == nil && json.Unmarshal(data, &was) == nil && was == now
}
