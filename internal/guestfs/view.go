package guestfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options say how disks are looked at.
type Options struct {
	HostKernel bool     // by the kernel of this host, which trusts the guest
	FileSystem string   // vda1 or vg/root; "" for all that the guest's own system mounts, or the only one
	Keys       []string // of LUKS, as libguestfs has them: ID:key:SECRET, ID:file:PATH
	Dir        string   // a directory for what is needed meanwhile, which is there and empty
	At         string   // a directory to mount at, for all to see; "" for a view of this process alone
}

// A View is the file systems of some disks, read-only.
type View struct {
	// Root is the uppermost directory; nil where the view is mounted for all to see.
	Root *os.File
	// FileSystem is the one that was chosen; "" where there may be several.
	FileSystem string

	at, dir  string
	device   uint64 // of what is mounted at at
	servers  []*Server
	shell    *shell     // guestfish
	helpers  []*process // nbdfuse, one for each disk
	mountDir string     // where guestfish has it, in its own mounts
}

// Open looks at the disks, of one guest, and returns what Close ends.
func Open(ctx context.Context, disks []Disk, o Options) (*View, error) {
	v := &View{at: o.At, dir: o.Dir}
	err := v.open(ctx, disks, &o)
	if err == nil && v.at != "" {
		err = v.note()
	}
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

func (v *View) open(ctx context.Context, disks []Disk, o *Options) error {
	for i := range disks {
		s, err := Serve(ctx, &disks[i], filepath.Join(o.Dir, fmt.Sprintf("%d.nbd", i)))
		if err != nil {
			return err
		}
		v.servers = append(v.servers, s)
	}
	if o.HostKernel {
		return v.byKernel(ctx, disks, o)
	}
	return v.byAppliance(ctx, disks, o)
}

// note remembers what is mounted, to notice when it is gone.
func (v *View) note() error {
	info, err := os.Stat(v.at)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		v.device = st.Dev
	}
	return nil
}

// mounted tells whether the view is still at its directory.
func (v *View) mounted() bool {
	var st unix.Stat_t
	err := unix.Stat(v.at, &st)
	return errors.Is(err, unix.ENOTCONN) || err == nil && st.Dev == v.device
}

// lookEvery is how often a view looks whether it was unmounted.
const lookEvery = 200 * time.Millisecond

// Wait returns when the view was unmounted, or ctx ends; or with an error when what it needs ends.
func (v *View) Wait(ctx context.Context) error {
	for v.mounted() {
		for _, p := range v.processes() {
			select {
			case <-p.ended:
				if v.mounted() {
					return p.failure()
				}
				return nil
			default:
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookEvery):
		}
	}
	return nil
}

func (v *View) processes() []*process {
	all := slices.Clone(v.helpers)
	for _, s := range v.servers {
		all = append(all, s.process)
	}
	if v.shell != nil {
		all = append(all, v.shell.process)
	}
	return all
}

// A StillUsedError says that somebody uses what was mounted; to them it is gone.
type StillUsedError struct{ Dir string }

func (e *StillUsedError) Error() string {
	return e.Dir + " was in use: it is unmounted all the same, and who has files of it open cannot read them any more"
}

// Close ends the view, and unmounts it where it is mounted. What guestfish has mounted for all
// but this process to see nothing of goes first: then it ends by itself, and tidies up.
func (v *View) Close() error {
	var errs []error
	if v.Root != nil {
		errs = append(errs, v.Root.Close())
	}
	errs = append(errs, v.unmount())
	if v.shell != nil {
		errs = append(errs, v.shell.end(v.mountDir))
	}
	for _, p := range v.helpers {
		errs = append(errs, p.stop())
	}
	for _, s := range v.servers {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// unmount takes away what all could see.
func (v *View) unmount() error {
	switch {
	case v.at == "":
		return nil
	case v.device == 0: // it did not come to the end
		if v.shell != nil && v.shell.local {
			return Detach(v.at)
		}
		return nil
	case !v.mounted():
		return nil
	}
	err := unix.Unmount(v.at, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		return errors.Join(&StillUsedError{v.at}, Detach(v.at))
	}
	if err != nil {
		return Detach(v.at)
	}
	return nil
}

// Detach unmounts a directory, also one that is in use, or whose file system does not answer
// any more.
func Detach(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EPERM) { // an ordinary user
		_, err = run(context.Background(), "fusermount3", "-u", "-z", "--", dir)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // it is gone already
		return nil
	}
	return err
}
