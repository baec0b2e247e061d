package cli

import (
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

func TestMeasureSaysWhatQemuImgSays(t *testing.T) {
	dir := newSources(t)
	shell(t, dir, `qemu-img create -q -f qcow2 -o preallocation=metadata meta.qcow2 64M; qemu-io -f qcow2 -c "write -P 1 1M 1M" meta.qcow2 >/dev/null
qemu-img snapshot -c s base.qcow2; qemu-img bitmap --add base.qcow2 b0; qemu-img bitmap --add -g 512 base.qcow2 "another one"; qemu-img create -q -f qcow2 -o compat=0.10 old.qcow2 3M`)
	for _, line := range []string{
		"--size 10G", "-O raw --size 1001", "-O qcow2 --size 10G", "-O qcow2 --size 0", "-O qcow2 --size 1", "-O qcow2 --size 50T", "-O qcow2 -o cluster_size=512 --size 100G",
		"-O qcow2 -o cluster_size=4k,refcount_bits=1 --size 3G", "-O qcow2 -o cluster_size=2M,refcount_bits=64 --size 3T", "-O qcow2 -o compat=0.10 --size 7G",
		"-O qcow2 -o extended_l2=on --size 7G", "-O qcow2 -o preallocation=metadata --size 2G", "-O qcow2 -o preallocation=falloc --size 2G", "-O qcow2 -o preallocation=full top.qcow2",
		"-O raw top.qcow2", "-O qcow2 top.qcow2", "-O qcow2 -o cluster_size=4k top.qcow2", "-O qcow2 -o cluster_size=2M over.qcow2", "-O qcow2 packed.qcow2",
		"-O qcow2 -f raw far.raw", "-O qcow2 meta.qcow2", "-O qcow2 base.qcow2", "-O qcow2 -o compat=0.10 base.qcow2", "-O qcow2 -o cluster_size=512 base.qcow2", "-O qcow2 old.qcow2",
		"-O qcow2 -l s base.qcow2", "-O qcow2 -o backing_file=x,backing_fmt=qcow2 over.qcow2",
	} {
		for _, output := range []string{"--output=human", "--output=json"} {
			args := append([]string{"measure", output}, strings.Fields(line)...)
			want, errs, code := qemuImg(t, args...)
			out, ours, got := call(t, append([]string{"image"}, args...)...)
			if output == "--output=json" && code == 0 && !sameJSON(out, want) || output == "--output=human" && out != want || (got == 0) != (code == 0) {
				t.Errorf("%s: exit %d, %q %s; want %d, %q %s", line, got, out, ours, code, want, errs)
			}
		}
	}
	for _, line := range []string{"", "--size 1G top.qcow2", "--size 1Q", "-O vhd --size 1G"} {
		if _, errs, code := call(t, append([]string{"image", "measure"}, strings.Fields(line)...)...); code != term.ExitUsage {
			t.Errorf("%s: exit %d, %s", line, code, errs)
		}
	}
}
