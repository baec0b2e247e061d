package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xva/xvatest"
)

const (
	xvaRoot = "11111111-2222-3333-4444-555555555555"
	xvaData = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
)

// exportedDisks have noise here and there; the second is all zeros but for its end.
func exportedDisks() []xvatest.Disk {
	root, data := make([]byte, 40<<20), make([]byte, 17<<20+512)
	r := rand.NewChaCha8([32]byte{7})
	for _, off := range []int{0, 5<<20 - 3000, 11 << 20, 30<<20 + 65536} {
		_, _ = r.Read(root[off : off+100000])
	}
	_, _ = r.Read(data[17<<20:])
	return []xvatest.Disk{
		{ID: "Ref:4", UUID: xvaRoot, Name: "web root", Device: "0", Drive: "Disk", Used: 5 << 20, Content: root},
		{ID: "Ref:7", UUID: xvaData, Name: "data", Device: "1", Drive: "Disk", Used: 1 << 20, Content: data},
	}
}

// newExport writes web.xva, and the disks as they are to read, into a new current directory.
func newExport(t *testing.T) []xvatest.Member {
	t.Helper()
	t.Chdir(t.TempDir())
	disks := exportedDisks()
	writeTestFile(t, "root.raw", disks[0].Content)
	writeTestFile(t, "data.raw", disks[1].Content)
	m := xvatest.Members("web", false, disks...)
	writeTestFile(t, "web.xva", xvatest.Tar(m))
	return m
}

func writeTestFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// sameDisk has qemu-img compare, and check.
func sameDisk(t *testing.T, format, raw, image string) {
	t.Helper()
	if out, errs, code := qemuImg(t, "compare", "-f", "raw", "-F", format, raw, image); code != 0 {
		t.Errorf("%s: %s%s", image, out, errs)
	}
	if out, errs, code := qemuImg(t, "check", "-f", format, image); format == "qcow2" && code != 0 {
		t.Errorf("%s: %s%s", image, out, errs)
	}
}

func TestConvertOfAnExportMakesItsDisks(t *testing.T) {
	m := newExport(t)
	plain := xvatest.Tar(m)
	writeTestFile(t, "zstd.xva", xvatest.Zstd(plain))
	writeTestFile(t, "gzip.xva", xvatest.Gzip(plain))
	writeTestFile(t, "sha.xva", xvatest.Tar(xvatest.Members("web", true, exportedDisks()...)))
	for _, line := range []string{"web.xva", "zstd.xva", "gzip.xva", "sha.xva", "web.xva --cluster-size 512", "web.xva --cluster-size 2M", "zstd.xva -O raw"} {
		out := must(t, append([]string{"sr", "convert", "--to", "out/dir"}, strings.Fields(line)...)...)
		ext := "qcow2"
		if strings.Contains(line, "raw") {
			ext = "raw"
		}
		sameDisk(t, ext, "root.raw", "out/dir/"+xvaRoot+"."+ext)
		sameDisk(t, ext, "data.raw", "out/dir/"+xvaData+"."+ext)
		if left := namesIn(t, "out/dir"); len(left) != 2 {
			t.Errorf("%s: %q", line, left)
		}
		if !strings.Contains(out, `disk "web root" of "web", device 0`) {
			t.Errorf("%s: %s", line, out)
		}
		info, err := vfs.Stat("out/dir/" + xvaRoot + "." + ext)
		if err != nil {
			t.Fatal(err)
		}
		if info.Allocated > 3<<20 && !strings.Contains(line, "2M") {
			t.Errorf("%s: %d bytes on disk for 400 kB of data", line, info.Allocated)
		}
		if err := os.RemoveAll("out"); err != nil {
			t.Fatal(err)
		}
	}
}

func namesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != convert.RecordName {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestConvertOfAnExportReadsAPipe(t *testing.T) {
	newExport(t)
	stdinFrom(t, "web.xva")
	must(t, "sr", "convert", "-", "--to", "out", "--quiet")
	sameDisk(t, "qcow2", "root.raw", "out/"+xvaRoot+".qcow2")
}

// stdinFrom has a pipe as standard input that gets the file in pieces.
func stdinFrom(t *testing.T, path string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	old := os.Stdin
	os.Stdin = r
	t.Cleanup(func() { os.Stdin = old; r.Close(); w.Close() })
	if path == "" {
		return
	}
	go func() {
		b, _ := os.ReadFile(path)
		for ; len(b) > 0; b = b[min(len(b), 70001):] {
			w.Write(b[:min(len(b), 70001)])
		}
		w.Close()
	}()
}

// A pipe on which nothing comes does not hold the program up.
func TestConvertOfAnExportCanBeInterrupted(t *testing.T) {
	newExport(t)
	stdinFrom(t, "")
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	done := make(chan int)
	go func() {
		var out, errs bytes.Buffer
		done <- Run(ctx, "dev", []string{"sr", "convert", "-", "--to", "out"}, &out, &errs)
	}()
	select {
	case code := <-done:
		if code != term.ExitFailed {
			t.Errorf("exit %d", code)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it hangs")
	}
}

func TestConvertOfAnExportTakesSomeDisks(t *testing.T) {
	newExport(t)
	out := must(t, "sr", "convert", "web.xva", "--to", "out", "--vdi", strings.ToUpper(xvaData), "--output", "json")
	var report images.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil || len(report.Steps) != 1 || *report.Steps[0].Bytes != 1<<20+512 {
		t.Errorf("%v: %s", err, out)
	}
	sameDisk(t, "qcow2", "data.raw", "out/"+xvaData+".qcow2")
	if names := namesIn(t, "out"); len(names) != 1 {
		t.Errorf("%q", names)
	}
}

func TestConvertOfAnExportDryRunMakesNothing(t *testing.T) {
	newExport(t)
	out := must(t, "sr", "convert", "web.xva", "--to", "out", "--dry-run")
	if _, err := os.Stat("out"); err == nil || !strings.Contains(out, xvaData+".qcow2") {
		t.Errorf("%v: %s", err, out)
	}
}

// Whatever is wrong with an export, no image is left, and what is wrong is told with
// file and member. A directory that was there stays, with what is in it.
func TestConvertOfADamagedExportLeavesNothing(t *testing.T) {
	m := newExport(t)
	plain := xvatest.Tar(m)
	last := len(m) - 2 // the last chunk of the last disk
	damaged := slices.Clone(m)
	damaged[last].Data = slices.Clone(m[last].Data)
	damaged[last].Data[100] ^= 4
	climbs := slices.Clone(m)
	climbs[3].Name = "Ref:4/../../x"
	for name, c := range map[string]struct {
		b    []byte
		want string
		code int
	}{
		"flip":     {xvatest.Tar(damaged), "Ref:7/00000017 (at byte", 1},
		"flip.zst": {xvatest.Zstd(xvatest.Tar(damaged)), "wrong checksum", 1},
		"cut":      {plain[:len(plain)-9000], "cut off", 1},
		"cut.gz":   {xvatest.Gzip(plain)[:100000], "cut off", 1},
		"half":     {plain[:2<<20], "cut off", 1},
		"names":    {xvatest.Tar(climbs), "Ref:4/../../x", 1},
		"text":     {[]byte("hello"), "not an XVA", 4},
		"empty":    {nil, "not an XVA", 4},
	} {
		writeTestFile(t, name, c.b)
		for _, to := range []string{"new", "there"} {
			if to == "there" {
				if err := os.MkdirAll("there", 0o700); err != nil {
					t.Fatal(err)
				}
				writeTestFile(t, "there/mine", []byte("mine"))
			}
			_, errs, code := call(t, "sr", "convert", name, "--to", to)
			if code != c.code || !strings.Contains(errs, name+": ") || !strings.Contains(errs, c.want) || strings.Count(errs, "\n") != 1 {
				t.Errorf("%s: exit %d, %s", name, code, errs)
			}
		}
		if _, err := os.Stat("new"); !os.IsNotExist(err) {
			t.Errorf("%s: new: %v", name, err)
		}
		if left := namesIn(t, "there"); !slices.Equal(left, []string{"mine"}) {
			t.Errorf("%s: left %q", name, left)
		}
	}
}

func TestConvertOfAnExportReplacesNothing(t *testing.T) {
	newExport(t)
	if err := os.Mkdir("out", 0o700); err != nil {
		t.Fatal(err)
	}
	writeTestFile(t, "out/"+xvaData+".qcow2", []byte("mine"))
	_, errs, code := call(t, "sr", "convert", "web.xva", "--to", "out")
	if b, _ := os.ReadFile("out/" + xvaData + ".qcow2"); code != term.ExitRefused || string(b) != "mine" || len(namesIn(t, "out")) != 1 {
		t.Errorf("exit %d, %s, %q", code, errs, b)
	}
}

func TestConvertOfAnExportWantsRoom(t *testing.T) {
	t.Chdir(t.TempDir())
	d := exportedDisks()
	d[0].Used, d[1].Used = 1<<50, 1<<50 // more than the disks have
	writeTestFile(t, "small.xva", xvatest.Zstd(xvatest.Tar(xvatest.Members("web", false, d...))))
	must(t, "sr", "convert", "small.xva", "--to", "out", "--dry-run")
	huge := xvatest.Descriptor("web", d...)
	huge.Data = bytes.ReplaceAll(huge.Data, []byte("<value>41943040</value>"), []byte("<value>1125899906842624</value>"))
	writeTestFile(t, "huge.xva", xvatest.Zstd(xvatest.Tar([]xvatest.Member{huge})))
	_, errs, code := call(t, "sr", "convert", "huge.xva", "--to", "out")
	if code != term.ExitRefused || !strings.Contains(errs, "can take 1") || !strings.Contains(errs, "are free") {
		t.Errorf("exit %d, %s", code, errs)
	}
}

func TestConvertOfAnExportWrongUsage(t *testing.T) {
	newExport(t)
	for line, want := range map[string]string{
		"web.xva":                                    "to",
		"web.xva --to x --flatten":                   "no chains",
		"web.xva --to x --keep-all":                  "no chains",
		"web.xva --to x -O vhd":                      "want qcow2 or raw",
		"web.xva --to x -O raw --cluster-size 1M":    "no clusters",
		"web.xva --to x --cluster-size 3":            "power of two",
		"web.xva --to x --vdi " + xvaRoot[:35] + "f": "no disk of that UUID",
		"web.xva root.raw --to x":                    "wants",
	} {
		_, errs, code := call(t, append([]string{"sr", "convert"}, strings.Fields(line)...)...)
		if code != term.ExitUsage || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %s", line, code, errs)
		}
	}
	if _, err := os.Stat("x"); err == nil {
		t.Error("x was made")
	}
}

// Of several VMs, and with snapshots, each disk is told under its own.
func TestConvertOfAnExportTellsWhoseEachDiskIs(t *testing.T) {
	t.Chdir(t.TempDir())
	d := exportedDisks()
	d[0].VM, d[1].VM = "Ref:1", "Ref:2"
	machines := []xvatest.Machine{{ID: "Ref:2", Name: "monday", SnapshotOf: "Ref:1"}, {ID: "Ref:1", Name: "web"}, {ID: "Ref:3", Name: "db"}}
	db := d[0]
	db.ID, db.UUID, db.VM = "Ref:9", "99999999-2222-3333-4444-555555555555", "Ref:3"
	writeTestFile(t, "all.xva", xvatest.Tar(xvatest.MembersOf(machines, false, append(d, db)...)))
	out := must(t, "sr", "convert", "all.xva", "--to", "out")
	for _, want := range []string{`disk "web root" of "web", device 0`, `disk "data" of the snapshot "monday" of "web", device 1`, `disk "web root" of "db"`} {
		if !strings.Contains(out, want) {
			t.Errorf("%s is missing: %s", want, out)
		}
	}
}

// One damaged chunk costs one MiB of one disk, if somebody says so; and before that it is
// told which disk that is.
func TestConvertOfADamagedExportSalvages(t *testing.T) {
	m := newExport(t)
	damaged := slices.Clone(m)
	last := len(m) - 2
	damaged[last].Data = slices.Clone(m[last].Data)
	damaged[last].Data[100] ^= 4
	writeTestFile(t, "bad.xva", xvatest.Tar(damaged))
	_, errs, code := call(t, "sr", "convert", "bad.xva", "--to", "out")
	for _, want := range []string{"Ref:7/00000017", `the disk "data" (` + xvaData + `) of "web"`, "bytes 17825792 to 17826303 are lost", "--salvage"} {
		if code != term.ExitFailed || !strings.Contains(errs, want) {
			t.Errorf("%s is missing: %d %s", want, code, errs)
		}
	}
	out, errs, code := call(t, "sr", "convert", "bad.xva", "--to", "out", "--salvage", "--output", "json")
	var did convertedJSON
	decodeJSON(t, out, &did)
	if code != term.ExitSome || len(did.Missing) != 1 || did.Missing[0].Disk != xvaData || did.Missing[0].Offset != 17<<20 || did.Missing[0].Length != 512 ||
		!strings.Contains(errs, "are missing and read as zeros") {
		t.Errorf("%d %s%s", code, out, errs)
	}
	sameDisk(t, "qcow2", "root.raw", "out/"+xvaRoot+".qcow2")
	writeTestFile(t, "holed.raw", make([]byte, 17<<20+512))
	sameDisk(t, "qcow2", "holed.raw", "out/"+xvaData+".qcow2")

	plain := xvatest.Tar(m)
	writeTestFile(t, "cut.xva", plain[:2<<20])
	_, errs, code = call(t, "sr", "convert", "cut.xva", "--to", "cut", "--salvage")
	if made := namesIn(t, "cut"); code != term.ExitSome || !slices.Equal(made, []string{xvaRoot + ".qcow2"}) || !strings.Contains(errs, "no image was made") {
		t.Errorf("%d %s %q", code, errs, made)
	}
	if _, errs, code := call(t, "sr", "convert", "web.xva", "--to", "whole", "--salvage"); code != 0 || errs != "" {
		t.Errorf("%d %s", code, errs)
	}
}
