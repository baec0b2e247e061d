package integration_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
	"github.com/virt-rotate/virt-rotate/integration/images"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A merge for which there is no room is refused before a byte of its base has
// changed, and done once there is room.
func TestAFullFileSystemStopsAMergeBeforeItStarts(t *testing.T) {
	t.Parallel()
	for _, fstype := range []string{"tmpfs", "ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			dir := smallFS(t, fstype)
			run(t, dir, "qemu-img create -q -f qcow2 base 64M; qemu-io -f qcow2 -c 'write -q -P 1 0 4M' base")
			run(t, dir, "qemu-img create -q -f qcow2 -b base -F qcow2 top; qemu-io -f qcow2 -c 'write -q -P 2 2M 40M' top")
			run(t, dir, "head -c 200M /dev/zero > filler || true; sync -f .") // no room is left
			before, want := sha(t, filepath.Join(dir, "base")), guestSHA(t, dir, "top")
			err := commitTop(t.Context(), dir)
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("%v", err)
			}
			if sha(t, filepath.Join(dir, "base")) != before || guestSHA(t, dir, "top") != want {
				t.Error("something has changed")
			}
			must(t, os.Remove(filepath.Join(dir, "filler")))
			must(t, commitTop(t.Context(), dir))
			if guestSHA(t, dir, "base") != want {
				t.Error("the base does not read as the top did")
			}
			run(t, dir, "qemu-img check -q -f qcow2 base; test ! -e top")
		})
	}
}

// Where extents are shared, a merge needs no room for its data, in whatever format.
func TestAMergeOfSharedExtentsNeedsLittleRoom(t *testing.T) {
	t.Parallel()
	bin, err := binary()
	must(t, err)
	for base, prepare := range map[string]string{
		"qcow2": "mv b.qcow2 base; mv t.qcow2 top; qemu-img rebase -u -f qcow2 -b base -F qcow2 top",
		"raw":   "qemu-img convert -f qcow2 -O raw b.qcow2 base; mv t.qcow2 top; qemu-img rebase -u -f qcow2 -b base -F raw top",
		"vhd":   bin + " image convert -q --chain -O vhd t.qcow2 out; mv out/b.vhd b.vhd; mv out/t.vhd top; ln -s b.vhd base",
	} {
		t.Run(base, func(t *testing.T) {
			t.Parallel()
			dir := smallFS(t, "xfs")
			run(t, dir, "qemu-img create -q -f qcow2 b.qcow2 128M; qemu-io -f qcow2 -c 'write -q -P 1 0 4M' b.qcow2")
			run(t, dir, "qemu-img create -q -f qcow2 -b b.qcow2 -F qcow2 t.qcow2;"+
				"qemu-io -f qcow2 -c 'write -q -P 2 2M 20M' -c 'write -q -P 3 40M 10M' t.qcow2")
			want := guestSHA(t, dir, "t.qcow2")
			run(t, dir, prepare)
			run(t, dir, "rm -f [bt].qcow2; sync; fallocate -l $(( $(df --output=avail -B1 . | tail -1) - (8 << 20) )) filler; sync -f .")
			run(t, dir, bin+" image commit -q top")
			run(t, dir, "test ! -e top; rm filler")
			raw := filepath.Join(t.TempDir(), "raw")
			run(t, dir, bin+" image convert -q -f "+base+" -O raw base "+raw)
			if sha(t, raw) != want {
				t.Error("the base does not read as the top did")
			}
		})
	}
}

func commitTop(ctx context.Context, dir string) error {
	s := images.Store(vfs.OS(), dir)
	m, err := s.PlanCommit(ctx, chain.CommitRequest{Top: filepath.Join(dir, "top")})
	if err != nil {
		return err
	}
	return s.Commit(ctx, m, nil)
}

// smallFS mounts a file system with about 100 MiB of room (XFS wants 300 MiB at
// least: the rest is taken).
func smallFS(t *testing.T, fstype string) string {
	t.Helper()
	dir := filepath.Join(shortDir(t), "mnt")
	if fstype == "tmpfs" {
		must(t, os.Mkdir(dir, 0o755))
		run(t, dir, "mount -t tmpfs -o size=96M tmpfs .")
		t.Cleanup(func() { run(t, "/", "umount "+dir) })
		return dir
	}
	size := int64(160 << 20)
	if fstype == "xfs" {
		size = 300 << 20
	}
	l, err := guest.NewLoopMount(t.Context(), dir+".img", fstype, dir, size)
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	if fstype == "xfs" {
		run(t, dir, "fallocate -l $(( $(df --output=avail -B1 . | tail -1) - (96 << 20) )) taken")
	}
	return dir
}

func run(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, strings.TrimSpace(string(out)))
	}
}

func sha(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

// guestSHA is of what QEMU's own tool reads, written where there is room.
func guestSHA(t *testing.T, dir, name string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	run(t, dir, "qemu-img convert -f qcow2 -O raw "+name+" "+out)
	return sha(t, out)
}
