package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

func TestAmendDoesWhatQemuImgDoes(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, stated+`qemu-img create -q -f qcow2 -o compat=0.10 -b base.qcow2 -F qcow2 over.qcow2; io over.qcow2 "write -P 5 0 100k" "write -c -P 6 1M 64k"
qemu-img snapshot -c s old.qcow2; qemu-img create -q -f qcow2 -o compat=0.10,cluster_size=512 small.qcow2 1M; io small.qcow2 "write -P 1 0 1M"
qemu-img create -q -f qcow2 -o lazy_refcounts=on lazy.qcow2 1M`)
	for _, line := range []string{
		"compat=1.1 over.qcow2", "compat=v3,lazy_refcounts=on over.qcow2", "compat=1.1 old.qcow2", "compat=1.1 small.qcow2", "lazy_refcounts=on web.qcow2",
		"lazy_refcounts=off lazy.qcow2", "lazy_refcounts=on bits.qcow2", "compat=0.10 over.qcow2", "lazy_refcounts=on over.qcow2",
	} {
		options, name, _ := strings.Cut(line, " ")
		shell(t, dir, "cp "+name+" x; cp "+name+" theirs")
		_, errs, code := qemuImg(t, "amend", "-f", "qcow2", "-o", options, "theirs")
		_, ours, got := call(t, "image", "amend", "-o", options, "x")
		if (got == 0) != (code == 0) {
			t.Fatalf("%s: exit %d, %s; qemu-img: %d, %s", line, got, ours, code, errs)
		}
		if code == 0 {
			wantAlike(t, "qcow2")
			must(t, "image", "check", "x")
		}
	}
}

func TestAmendThatIsRefusedChangesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, stated)
	wantUnchanged(t, dir, "amend", []refusal{
		{"web.qcow2", term.ExitUsage, "wants -o"},
		{"-o size=9M web.qcow2", term.ExitUsage, "image resize"},
		{"-o cluster_size=4k web.qcow2", term.ExitUsage, "image convert makes a copy"},
		{"-o frob=1 web.qcow2", term.ExitUsage, "no such option"},
		{"-o compat=0.10 web.qcow2", term.ExitRefused, "a copy can be"},
		{"-o lazy_refcounts=on old.qcow2", term.ExitRefused, "lazy refcounts in version 2"},
		{"-f raw -o compat=1.1 disk.raw", term.ExitRefused, "nothing that could be amended"},
		{"--dry-run -o compat=1.1 old.qcow2", term.ExitDone, ""},
		{"--dry-run -o compat=0.10 web.qcow2", term.ExitRefused, "a copy can be"},
	})
}

func TestConvertOntoTheSameBackingFile(t *testing.T) {
	dir := newSources(t)
	want := guestSum(t, "qcow2", "over.qcow2")
	for i, line := range []string{"-B base.qcow2 -F qcow2", "-o backing_file=base.qcow2,backing_fmt=qcow2", "-o cluster_size=2M -B " + dir + "/base.qcow2 -F qcow2"} {
		must(t, append(append([]string{"image", "convert", "-O", "qcow2"}, strings.Fields(line)...), "over.qcow2", "new")...)
		if guestSum(t, "qcow2", "new") != want {
			t.Errorf("%s: the guest reads other data", line)
		}
		if info := infoOf(t, "new"); !strings.HasSuffix(info["backing-filename"].(string), "base.qcow2") {
			t.Errorf("%d: %v", i, info)
		}
		if out, errs, code := qemuImg(t, "check", "new"); code != 0 {
			t.Errorf("%s: %s%s", line, out, errs)
		}
	}
	for line, want := range map[string]string{"-B base.qcow2 -F qcow2 far.raw": "does not build on", "-B over.qcow2 -F qcow2 base.qcow2": "does not build on",
		"-B base.qcow2 over.qcow2": "format of the backing file", "-c -B base.qcow2 -F qcow2 over.qcow2": "exclude each other", "-n -B base.qcow2 -F qcow2 over.qcow2": "exclude each other"} {
		args := strings.Fields(line)
		src := args[len(args)-1]
		if _, errs, code := call(t, append([]string{"image", "convert", "-O", "qcow2", "-f", formatOf(src)}, append(args, "none")...)...); code == 0 || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %s", line, code, errs)
		}
	}
}

// What scripts say and means nothing here is taken; what cannot be says why.
func TestOptionsOfQemuImgThatScriptsSay(t *testing.T) {
	newSources(t)
	for _, line := range []string{
		"convert -t none -T none -m 16 -W -C -p -O raw base.qcow2 new", "check -T none base.qcow2", "compare -T writeback base.qcow2 base.qcow2", "commit -t none -d over.qcow2",
		"resize -q base.qcow2 +1M", "rebase -u -t none -T none -b base.qcow2 -F qcow2 over.qcow2", "amend -t none -o lazy_refcounts=on base.qcow2", "snapshot -q -l base.qcow2",
	} {
		if _, errs, code := call(t, append([]string{"image"}, strings.Fields(line)...)...); code != 0 {
			t.Errorf("%s: exit %d, %s", line, code, errs)
		}
	}
	for line, want := range map[string]string{
		"convert -t fast base.qcow2 x": "want none, writeback", "convert -m 17 base.qcow2 x": "want 1 to 16", "convert --salvage base.qcow2 x": "ddrescue",
		"convert --image-opts driver=qcow2,file.filename=x y": "name the file", "info --object secret,id=s,data=x base.qcow2": "encrypted", "convert -r 0 base.qcow2 x": "-r 0", "convert -r x base.qcow2 x": "-r x",
	} {
		if _, errs, code := call(t, append([]string{"image"}, strings.Fields(line)...)...); code != term.ExitUsage || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %s", line, code, errs)
		}
	}
	start := time.Now()
	must(t, "image", "convert", "-r", "2M", "-O", "raw", "over.qcow2", "slow")
	if d := time.Since(start); d < 700*time.Millisecond {
		t.Errorf("2 MiB a second, and some 3 MiB took %v", d)
	}
}
