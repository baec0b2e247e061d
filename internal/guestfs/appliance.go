package guestfs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// By libguestfs: one guestfish, which is told what to do line by line, finds the file systems,
// mounts them in its virtual machine, and makes a FUSE mount of them here.

// A shell is a guestfish at work.
type shell struct {
	*process
	in    io.WriteCloser
	out   *bufio.Reader
	asked int
	local bool // its file systems are mounted here: it ends when they are not any more
}

// errNoSystem says that there is no operating system, whose file systems would be known.
var errNoSystem = errors.New("no operating system was found")

func (v *View) byAppliance(ctx context.Context, disks []Disk, o *Options) error {
	err := errNoSystem
	if o.FileSystem == "" {
		err = v.inspected(ctx, disks, o)
	}
	if errors.Is(err, errNoSystem) {
		err = v.named(ctx, disks, o)
	}
	return err
}

// inspected mounts what the guest's own system would mount.
func (v *View) inspected(ctx context.Context, disks []Disk, o *Options) error {
	args := []string{"--inspector"}
	for _, key := range o.Keys {
		args = append(args, "--key", key)
	}
	sh, err := v.guestfish(disks, args)
	if err == nil {
		_, err = sh.ask(ctx)
	}
	if err == nil {
		return v.export(ctx, sh)
	}
	if sh != nil && strings.Contains(sh.errs.String(), "no operating system was found") {
		v.shell = nil // it has ended
		return errNoSystem
	}
	return err
}

// named mounts the file system that is wanted, or the only one.
func (v *View) named(ctx context.Context, disks []Disk, o *Options) error {
	sh, err := v.guestfish(disks, nil)
	if err != nil {
		return err
	}
	found, err := sh.fileSystems(ctx, o.Keys)
	if err != nil {
		return err
	}
	shown, encrypted := []FileSystem{}, ""
	for _, f := range found {
		switch f.Type {
		case "crypto_LUKS":
			encrypted = fromAppliance(f.Name, disks) + " is encrypted (LUKS): give its key with --key"
		case "swap", "unknown":
		default:
			shown = append(shown, FileSystem{fromAppliance(f.Name, disks), f.Type})
		}
	}
	wanted := o.FileSystem
	if wanted != "" {
		wanted = fromAppliance(toAppliance(wanted, disks), disks)
	}
	chosen, err := choose(wanted, shown, encrypted)
	if err != nil {
		return err
	}
	v.FileSystem = chosen.Name
	if _, err := sh.ask(ctx, "mount-ro "+quoted(toAppliance(chosen.Name, disks))+" /"); err != nil {
		return err
	}
	return v.export(ctx, sh)
}

// fileSystems lists what libguestfs finds, those in encrypted devices included where there
// are keys.
func (sh *shell) fileSystems(ctx context.Context, keys []string) ([]FileSystem, error) {
	if _, err := sh.ask(ctx, "run"); err != nil {
		return nil, err
	}
	found, err := sh.list(ctx)
	if err != nil || len(keys) == 0 {
		return found, err
	}
	if err := sh.unlock(ctx, found, keys); err != nil {
		return nil, err
	}
	return sh.list(ctx)
}

func (sh *shell) list(ctx context.Context) ([]FileSystem, error) {
	lines, err := sh.ask(ctx, "list-filesystems")
	var found []FileSystem
	for _, line := range lines {
		if i := strings.LastIndex(line, ": "); i > 0 {
			found = append(found, FileSystem{line[:i], line[i+2:]})
		}
	}
	return found, err
}

// unlock opens the encrypted devices with the keys that are for them, or for all.
func (sh *shell) unlock(ctx context.Context, found []FileSystem, keys []string) error {
	n := 0
	for _, f := range found {
		if f.Type != "crypto_LUKS" {
			continue
		}
		for _, key := range keys {
			secret, fits, err := secretFor(key, f.Name)
			if err != nil {
				return err
			}
			if !fits {
				continue
			}
			n++
			if _, err := sh.ask(ctx, fmt.Sprintf("cryptsetup-open %s luks%d readonly:true", quoted(f.Name), n), secret); err != nil {
				return err
			}
			break
		}
	}
	_, err := sh.ask(ctx, "lvm-scan true")
	return err
}

// secretFor takes a key apart: ID:key:SECRET or ID:file:PATH, where ID is a device or "all".
func secretFor(key, device string) (secret string, fits bool, err error) {
	id, rest, _ := strings.Cut(key, ":")
	kind, value, ok := strings.Cut(rest, ":")
	switch {
	case !ok:
		return "", false, errors.New("--key: want ID:key:SECRET or ID:file:PATH, as libguestfs has it")
	case id != "all" && id != device:
		return "", false, nil
	case kind == "key":
		return value, true, nil
	case kind == "file":
		text, err := os.ReadFile(value)
		return strings.TrimSuffix(string(text), "\n"), true, err
	}
	return "", false, fmt.Errorf("--key: %s is not known without an operating system in the guest: want key or file", kind)
}

// guestfish starts one that has all disks.
func (v *View) guestfish(disks []Disk, more []string) (*shell, error) {
	args := []string{"--ro", "--keys-from-stdin", "--format=raw"}
	for i := range disks {
		args = append(args, "--add", "nbd://?socket="+v.servers[i].Socket)
	}
	sh := &shell{}
	var err error
	sh.process, err = start("guestfish", v.at == "", func(cmd *exec.Cmd) {
		cmd.Env = slices.Concat([]string{"LIBGUESTFS_BACKEND=direct"}, cmd.Environ(), []string{"LC_ALL=C.UTF-8", "LIBGUESTFS_TMPDIR=" + v.dir, "XDG_RUNTIME_DIR=" + v.dir})
		in, _ := cmd.StdinPipe() // fails for one that was started, or has an input already
		out, _ := cmd.StdoutPipe()
		sh.in, sh.out = in, bufio.NewReader(out)
	}, append(args, more...)...)
	if err != nil {
		return nil, err
	}
	v.shell = sh
	return sh, nil
}

// ask gives commands, and returns what they print. A guestfish that is given its commands ends at the first
// that fails.
func (sh *shell) ask(ctx context.Context, commands ...string) ([]string, error) {
	sh.asked++
	end := fmt.Sprintf("virt-rotate-%d", sh.asked)
	text := strings.Join(append(commands, "echo "+end), "\n") + "\n"
	if _, err := io.WriteString(sh.in, text); err != nil {
		return nil, sh.died(ctx)
	}
	type answer struct {
		lines []string
		err   error
	}
	told := make(chan answer, 1)
	go func() {
		var a answer
		for a.err == nil {
			var line string
			line, a.err = sh.out.ReadString('\n')
			line = strings.TrimSuffix(line, "\n")
			if line == end {
				break
			}
			a.lines = append(a.lines, line)
		}
		told <- a
	}()
	select {
	case a := <-told:
		if a.err != nil {
			return nil, sh.died(ctx)
		}
		return a.lines, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// died says what guestfish, which has ended, had to say.
func (sh *shell) died(ctx context.Context) error {
	select {
	case <-sh.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	err := sh.failure()
	if text := sh.errs.String(); strings.Contains(text, "guestfs_launch failed") || strings.Contains(text, "appliance") {
		return fmt.Errorf("%s; libguestfs-test-tool tells more; where KVM does not work, LIBGUESTFS_BACKEND_SETTINGS=force_tcg does without", firstLine(err.Error()))
	}
	return err
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// export makes the mount here, and opens it.
func (v *View) export(ctx context.Context, sh *shell) error {
	dir := v.at
	if dir == "" {
		dir = filepath.Join(v.dir, "files")
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	if _, err := sh.ask(ctx, "mount-local "+quoted(dir)+" readonly:true"); err != nil {
		return err
	}
	if _, err := io.WriteString(sh.in, "mount-local-run\n"); err != nil {
		return sh.died(ctx)
	}
	sh.local = true
	if v.at != "" {
		return sh.in.Close()
	}
	v.mountDir = dir
	root, err := os.Open(sh.path(dir))
	v.Root = root
	return errors.Join(err, sh.in.Close())
}

// quoted is a word of guestfish's language.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c >= 0x7f:
			fmt.Fprintf(&b, "\\x%02x", c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// end unmounts what is at dir in guestfish's own mounts, if it is not "", and waits until it
// has tidied up.
func (sh *shell) end(dir string) error {
	_ = sh.in.Close() // it may be closed
	switch {
	case !sh.local:
		return sh.stop()
	case dir == "":
		return sh.finish()
	}
	if sh.cmd.SysProcAttr.Unshareflags == 0 {
		return errors.Join(Detach(dir), sh.finish())
	}
	return errors.Join(sh.unmountInside(dir), sh.finish())
}

// unmountInside unmounts a directory in the mounts of the process, from a thread that has
// them, and ends.
func (p *process) unmountInside(dir string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread goes with this function
		done <- func() error {
			mounts, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", p.cmd.Process.Pid))
			if err != nil {
				return nil //nolint:nilerr // it has ended, and so have its mounts
			}
			defer mounts.Close()
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			if err := unix.Setns(int(mounts.Fd()), unix.CLONE_NEWNS); err != nil {
				return err
			}
			return Detach(dir)
		}()
	}()
	return <-done
}
