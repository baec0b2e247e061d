package integration_test

import (
	"slices"
	"strings"
	"time"
)

func withFirmwareState(r *recipe) {
	r.on(newDaemonBed(r.t), recipePolicy)
	program, err := binary()
	must(r.t, err)
	r.wrap("exec " + strings.Join(r.daemon.Inside(), " ") + ` --wd="$PWD" ` + program) // where libvirt says that it keeps the variables
	r.command("qemu-img create -q -f qcow2 images/web-1.qcow2 4M")
	r.idles(r.path("images", "web-1.qcow2"), "--boot", "uefi", "--tpm", "default")
	nvram := r.path("lib/qemu/nvram/web-1_VARS.fd")
	tpm := r.path("lib/swtpm", strings.TrimSpace(r.virsh("domuuid", "web-1")), "tpm2/tpm2-00.permall")
	now := func() []string { return []string{sum(r.t, nvram), sum(r.t, tpm)} }
	r.settles(now) // the TPM is measured into as the guest boots
	r.destroy("web-1")
	r.virsh("start", "web-1", "--paused", "--reset-nvram")
	was := now()
	r.wantSaid(r.types("virt-rotate snapshot"), "firmware       web-1.before-firmware-update-")
	state := r.guestSum(r.chain("web-1", "vda")[0].Path, "qcow2")
	r.virsh("resume", "web-1")
	r.await("the firmware to write a variable", func() bool { return now()[0] != was[0] })
	r.settles(now)
	r.destroy("web-1")
	r.command("qemu-io -f qcow2 -c 'write -q -P 7 0 64k' %s", r.disk("web-1", "vda").Path)
	r.virsh("start", "web-1", "--paused")
	back := r.block("virt-rotate restore")
	r.script(strings.Replace(back, "--stop", "--stop --force --patience 1s --no-start", 1)).succeeds() // its firmware does not obey
	if got := now(); !slices.Equal(got, was) {
		r.t.Errorf("variables and TPM are %q, were %q", got, was)
	}
	if got := r.guestSum(r.disk("web-1", "vda").Path, "qcow2"); got != state {
		r.t.Error("the disk has not gone back")
	}
	r.virsh("start", "web-1")
}

// settles waits until what read returns has stayed the same for a while.
func (r *recipe) settles(read func() []string) {
	r.t.Helper()
	last, since := read(), time.Now()
	r.await("the firmware to come to rest", func() bool {
		if now := read(); !slices.Equal(now, last) {
			last, since = now, time.Now()
		}
		return time.Since(since) > 8*time.Second
	})
}
