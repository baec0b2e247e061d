package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/image"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

func TestCompareSaysWhatQemuImgSays(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `
io() { local f=$1 a=(); shift; for c in "$@"; do a+=(-c "$c"); done; qemu-io -t unsafe -f qcow2 "${a[@]}" $f >/dev/null; }
for i in none none2 zero data0 data other; do qemu-img create -q -f qcow2 $i 2M; done
qemu-img create -q -f qcow2 longer 3M; qemu-img create -q -f qcow2 longdata 3M
io zero "write -z 64k 64k"; io data0 "write -P 0 64k 64k"
io data "write -P 5 100k 300k"; io other "write -P 5 100k 300k" "write -P 6 300k 1"
io longdata "write -P 5 2560k 1"
truncate -s 2M raw; qemu-img convert -f qcow2 -O raw data dataraw; qemu-img convert -c -f qcow2 -O qcow2 data packed
qemu-img create -q -f qcow2 -b data -F qcow2 over
cp data cut; truncate -s 400k cut
head -c 100 /dev/urandom > noise`)
	images := map[string]string{"raw": "raw", "dataraw": "raw", "noise": "raw"}
	var all []*oracle
	for _, pair := range []string{
		"none none", "none none2", "none zero", "none data0", "zero data0", "none data", "data other", "other data", "none longer",
		"longer none", "none longdata", "longdata none", "data longdata", "raw none", "raw zero", "dataraw data", "data dataraw",
		"data packed", "data over", "dataraw raw", "none missing", "missing none",
	} {
		a, b, _ := strings.Cut(pair, " ")
		for _, strict := range []string{"", "-s "} {
			line := "compare " + strict + "-f " + formatIn(images, a) + " -F " + formatIn(images, b) + " " + pair
			all = append(all, &oracle{args: strings.Fields(line)})
		}
	}
	ask(t, all)
	for _, o := range all {
		out, errs, code := call(t, append([]string{"image"}, o.args...)...)
		// QEMU's strict mode also compares whether a stretch reaches the end of the
		// disk, and so finds a difference in allocation where there is none yet.
		same := out == o.out || strings.Contains(out, "block status") && strings.Contains(o.out, "block status")
		if code != o.code || !same || (code > 1) != (errs != "") {
			t.Errorf("%q: exit %d, %q %q; want exit %d, %q", o.args, code, out, errs, o.code, o.out)
		}
		var report image.CompareReport
		out, _, code = call(t, append([]string{"image", "--output=json"}, o.args...)...)
		if code != o.code || code < 2 && (json.Unmarshal([]byte(out), &report) != nil || report.Identical != (code == 0)) {
			t.Errorf("%q: exit %d, JSON %s", o.args, code, out)
		}
	}
}

func formatIn(formats map[string]string, name string) string {
	if f := formats[name]; f != "" {
		return f
	}
	return "qcow2"
}

func TestCompareTellsErrorsFromDifferences(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	shell(t, dir, `
qemu-img create -q -f qcow2 a 2M; qemu-io -t unsafe -f qcow2 -c "write -P 5 100k 300k" a >/dev/null; truncate -s 2M raw
qemu-img convert -c -f qcow2 -O qcow2 a packed
off=$((0x$(xxd -s $((4*65536+8)) -l 8 -p packed | cut -c 2-) & 0xffffff)) # of the first compressed cluster
printf '\377\377\377\377' | dd of=packed bs=1 seek=$off conv=notrunc status=none`)
	for _, c := range []struct {
		line, want string
		code       int
	}{
		{"a raw", "-f raw", image.ExitNotOpened},
		{"a", "FILE1 FILE2", image.ExitNotOpened},
		{"--frob a a", "frob", image.ExitNotOpened},
		{"-F vmdk a a", "vmdk", image.ExitNotOpened},
		{"packed a", "packed", image.ExitReadFailed},
		{"-q a a", "", term.ExitDone},
		{"-q -F raw a raw", "", image.ExitDiffers},
	} {
		out, errs, code := call(t, append([]string{"image", "compare"}, strings.Fields(c.line)...)...)
		if code != c.code || !strings.Contains(errs, c.want) || strings.Contains(c.line, "-q") && out != "" {
			t.Errorf("%s: exit %d, %q %q; want %d, %q", c.line, code, out, errs, c.code, c.want)
		}
	}
}
