package lvm2

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/tidy"
)

func TestMain(m *testing.M) { os.Exit(tidy.Run(m.Run)) }

// A lab is a volume group that LVM's own tools make, on two loop devices of two files. The
// device mapper is not asked for: nothing is ever activated.
type lab struct {
	*testing.T
	files, devices []string
}

const (
	labSize   = 64 << 20
	labExtent = 1 << 20
)

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{T: t}
	dir := t.TempDir()
	r := rand.NewChaCha8([32]byte{1})
	for _, name := range []string{"a.img", "b.img"} {
		data := make([]byte, labSize) // so that each byte tells where it lies
		_, _ = r.Read(data)
		clear(data[:labExtent])
		file := filepath.Join(dir, name)
		l.must(os.WriteFile(file, data, 0o600))
		device := strings.TrimSpace(l.run("losetup", "-f", "--show", file))
		t.Cleanup(func() { l.run("losetup", "-d", device) })
		l.files, l.devices = append(l.files, file), append(l.devices, device)
	}
	l.lvm(append([]string{"pvcreate", "--metadatasize", "40k", "--dataalignment", "64k"}, l.devices...)...)
	l.lvm(append([]string{"vgcreate", "-s", "1M", group}, l.devices...)...)
	l.create("lin", "-l", "20")
	l.create("str", "-i", "2", "-I", "64k", "-l", "30")
	l.create("gone", "-l", "3")
	l.lvm("lvextend", "-l", "+10", group+"/lin")
	l.lvm("lvremove", "-y", group+"/gone")
	l.lvm("lvchange", "--addtag", "hidden", group+"/str")
	l.lvm("lvchange", "-pr", group+"/str")
	return l
}

const group = "VG_XenStorage-c4b7f0d2-5e16-4a39-9f28-7d60a1e3b985"

func (l *lab) create(name string, args ...string) {
	l.Helper()
	l.lvm(append([]string{"lvcreate", "-an", "-Zn", "-Wn", "-y", "-n", name, group}, args...)...)
}

func (l *lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l *lab) run(name string, args ...string) string {
	l.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Env, cmd.Stderr = append(os.Environ(), "LVM_SUPPRESS_FD_WARNINGS=1"), &stderr
	out, err := cmd.Output()
	if err != nil {
		l.Fatalf("%s %q: %v\n%s", name, args, err, &stderr)
	}
	return string(out)
}

func (l *lab) lvm(args ...string) string {
	l.Helper()
	// LVM may look for devices by udev, which need not run here.
	return l.run("lvm", append(args, "--driverloaded", "n", "--config", "devices { obtain_device_list_from_udev=0 use_devicesfile=0 external_device_info_source=\"none\" }")...)
}

// open opens the copies, without the i-th for i in without.
func (l *lab) open(without ...int) []*PV {
	l.Helper()
	var pvs []*PV
	for i, file := range l.files {
		if slices.Contains(without, i) {
			continue
		}
		f, err := os.Open(file)
		l.must(err)
		l.Cleanup(func() { f.Close() })
		info, err := f.Stat()
		l.must(err)
		pv, err := Open(file, f, info.Size())
		l.must(err)
		pvs = append(pvs, pv)
	}
	return pvs
}

func (l *lab) group(pvs ...*PV) *Group {
	l.Helper()
	groups, err := Groups(pvs...)
	l.must(err)
	if len(groups) != 1 || groups[0].Name != group {
		l.Fatalf("%v", groups)
	}
	return groups[0]
}

// A told segment is one as lvs has it. Sizes are bytes.
type told struct {
	Name   string `json:"lv_name"`
	UUID   string `json:"lv_uuid"`
	Tags   string `json:"lv_tags"`
	Attr   string `json:"lv_attr"`
	Start  string `json:"seg_start"`
	Size   string `json:"seg_size"`
	Ranges string `json:"seg_pe_ranges"`
	Stripe string `json:"stripe_size"`
	Seqno  string `json:"vg_seqno"`
}

func (l *lab) segments() []told {
	l.Helper()
	var report struct {
		Report []struct {
			Seg []told `json:"seg"`
		} `json:"report"`
	}
	out := l.lvm("lvs", "--segments", "--units", "b", "--nosuffix", "--reportformat", "json",
		"-o", "lv_name,lv_uuid,lv_tags,lv_attr,seg_start,seg_size,seg_pe_ranges,stripe_size,vg_seqno", group)
	l.must(json.Unmarshal([]byte(out), &report))
	return report.Report[0].Seg
}

func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

var peRange = regexp.MustCompile(`(/dev/loop\d+):(\d+)-(\d+)`)

// content reads a segment's bytes from the copies by what lvs says of it.
func (l *lab) content(s told) []byte {
	l.Helper()
	var parts [][]byte
	for _, m := range peRange.FindAllStringSubmatch(s.Ranges, -1) {
		data, err := os.ReadFile(l.files[slices.Index(l.devices, m[1])])
		l.must(err)
		start := number(strings.TrimSpace(l.lvm("pvs", "--noheadings", "--nosuffix", "--units", "b", "-o", "pe_start", m[1])))
		parts = append(parts, data[start+number(m[2])*labExtent:start+(number(m[3])+1)*labExtent])
	}
	if len(parts) == 1 {
		return parts[0]
	}
	var whole []byte
	for at := 0; at < len(parts[0]); at += int(number(s.Stripe)) {
		for _, p := range parts {
			whole = append(whole, p[at:at+int(number(s.Stripe))]...)
		}
	}
	return whole
}

// lvs of LVM is the oracle: for every segment, and for every byte of it.
func TestVolumesAreAsLVMHasThem(t *testing.T) {
	l := newLab(t)
	seen := 0
	g := l.group(l.open()...)
	for _, s := range l.segments() {
		i := slices.IndexFunc(g.Volumes, func(v *Volume) bool { return v.Name == s.Name })
		if i < 0 {
			t.Fatalf("no volume %s", s.Name)
		}
		v := g.Volumes[i]
		got := make([]byte, number(s.Size))
		if n, err := v.ReadAt(got, number(s.Start)); err != nil || n != len(got) {
			t.Fatalf("%s at %s: %d, %v", s.Name, s.Start, n, err)
		}
		if !bytes.Equal(got, l.content(s)) {
			t.Errorf("%s at %s has other bytes", s.Name, s.Start)
		}
		if v.UUID != s.UUID || strings.Join(v.Tags, ",") != s.Tags || v.ReadOnly != (s.Attr[1] == 'r') || v.Hidden || fmt.Sprint(g.Seqno) != s.Seqno {
			t.Errorf("%+v of version %d, lvs: %+v", v, g.Seqno, s)
		}
		seen++
	}
	if seen != 3 || len(g.Volumes) != 2 || len(g.Missing)+len(g.Stale) > 0 {
		t.Errorf("%d segments, %d volumes, missing %v, stale %v", seen, len(g.Volumes), g.Missing, g.Stale)
	}
}

// The metadata is in a ring: each change is written behind the last, and goes on at the
// ring's beginning.
func TestMetadataThatGoesRoundItsRing(t *testing.T) {
	l := newLab(t)
	wrapped := 0
	for i := range 40 {
		l.lvm("lvchange", []string{"--addtag", "--deltag"}[i%2], "many"+strings.Repeat("y", 900), group+"/lin")
		g := l.group(l.open()...)
		if lin := g.Volumes[0]; lin.Name != "lin" || len(lin.Tags) != 1-i%2 || lin.Size != 30*labExtent {
			t.Fatalf("change %d: %+v", i, lin)
		}
		if l.wraps() {
			wrapped++
		}
	}
	if wrapped == 0 {
		t.Error("no text went round the ring: this has shown nothing")
	}
}

// wraps tells whether the newest text goes on at the beginning of its ring.
func (l *lab) wraps() bool {
	l.Helper()
	data, err := os.ReadFile(l.files[0])
	l.must(err)
	at := bytes.Index(data[:labExtent], areaMagic) - 4
	size := binary.LittleEndian.Uint64(data[at+32:])
	return binary.LittleEndian.Uint64(data[at+40:])+binary.LittleEndian.Uint64(data[at+48:]) > size
}

// A device that was away while the group was changed has older metadata: the newest counts,
// whichever comes first. What lies on a device that is not given is told of the volume.
func TestDevicesThatAreStaleOrMissing(t *testing.T) {
	l := newLab(t)
	old, err := os.ReadFile(l.files[1])
	l.must(err)
	l.lvm("lvextend", "-l", "+2", group+"/lin")
	l.must(os.WriteFile(l.files[1]+".old", old, 0o600))
	current := l.files[1]
	l.files[1] = current + ".old"
	for _, reversed := range []bool{false, true} {
		pvs := l.open()
		if reversed {
			slices.Reverse(pvs)
		}
		g := l.group(pvs...)
		if g.Volumes[0].Size != 32*labExtent || !slices.Equal(g.Stale, []string{l.files[1]}) {
			t.Errorf("%d bytes, stale %v", g.Volumes[0].Size, g.Stale)
		}
	}
	l.files[1] = current
	g := l.group(l.open(1)...)
	lin, str := g.Volumes[0], g.Volumes[1]
	if lin.Err != nil || str.Err == nil || len(g.Missing) != 1 || !strings.Contains(str.Err.Error(), g.Missing[0]) {
		t.Errorf("missing %v: %v, %v", g.Missing, lin.Err, str.Err)
	}
	if _, err := str.ReadAt(make([]byte, 512), 0); !errors.Is(err, str.Err) {
		t.Errorf("%v", err)
	}
}

// Which of two copies counts is not for us to say.
func TestACopyBesideItsOriginal(t *testing.T) {
	l := newLab(t)
	pvs := append(l.open(), l.open(1)...)
	if _, err := Groups(pvs...); err == nil || !strings.Contains(err.Error(), "give one of them") || !strings.Contains(err.Error(), l.files[0]) {
		t.Errorf("%v", err)
	}
}

// A copy that ends too early has whole volumes, and volumes that say so.
func TestACopyThatIsNotWhole(t *testing.T) {
	l := newLab(t)
	l.must(os.Truncate(l.files[0], 30<<20))
	g := l.group(l.open()...)
	for _, v := range g.Volumes {
		if v.Err == nil || !strings.Contains(v.Err.Error(), "the copy is not whole") {
			t.Errorf("%s: %v", v.Name, v.Err)
		}
	}
	l.must(os.Truncate(l.files[0], 5<<10))
	f, err := os.Open(l.files[0])
	l.must(err)
	defer f.Close()
	var damage *DamagedError
	if _, err := Open("a.img", f, 5<<10); !errors.As(err, &damage) || !strings.Contains(err.Error(), "ends here") {
		t.Errorf("%v", err)
	}
}

// At its end a volume reads like a device.
func TestReadingAtTheEnd(t *testing.T) {
	l := newLab(t)
	v := l.group(l.open()...).Volumes[0]
	b := make([]byte, 1000)
	if n, err := v.ReadAt(b, v.Size-10); n != 10 || !errors.Is(err, io.EOF) {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := v.ReadAt(b, v.Size); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := v.ReadAt(b, -1); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
	pv, at, n, err := v.Where(20 * labExtent)
	if err != nil || pv.Name != l.files[0] || (at-64<<10)%labExtent != 0 || n != 10*labExtent {
		t.Errorf("%v %d %d %v", pv, at, n, err)
	}
}

// No byte of label, header or metadata can change without that being told, but for those
// that nobody reads.
func TestDamageIsTold(t *testing.T) {
	l := newLab(t)
	data, err := os.ReadFile(l.files[0])
	l.must(err)
	data = data[:labExtent]
	area := bytes.Index(data, areaMagic) - 4
	text := area + int(binary.LittleEndian.Uint64(data[area+40:]))
	for _, at := range []int{512, 512 + 8, 512 + 16, 512 + 20, 512 + 24, 512 + 40, 512 + 80, 512 + 100, area, area + 4, area + 24, area + 32, area + 40, area + 48, area + 56, text, text + 100} {
		data[at] ^= 0x40
		pv, err := Open("pv", bytes.NewReader(data), labSize)
		if err == nil {
			t.Errorf("byte %d: %+v", at, pv.group)
		}
		data[at] ^= 0x40
	}
	if _, err := Open("pv", bytes.NewReader(data), labSize); err != nil {
		t.Error(err)
	}
	if _, err := Open("pv", bytes.NewReader(make([]byte, 4096)), 4096); !errors.Is(err, ErrNoLabel) {
		t.Errorf("%v", err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(`vg { id = "x" seqno = 1 extent_size = 8 physical_volumes { pv0 { id = "a" pe_start = 8 } } logical_volumes { lv { id = "y" segment_count = 1 segment1 { start_extent = 0 extent_count = 2 type = "striped" stripe_count = 1 stripes = ["pv0", 0] } } } }`))
	f.Add([]byte(`vg { seqno = 1 extent_size = 9223372036854775807 # x`))
	f.Fuzz(func(t *testing.T, text []byte) {
		g, err := parseGroup(string(text))
		if err != nil {
			return
		}
		pv := &PV{Name: "a", UUID: "a", r: bytes.NewReader(make([]byte, 1<<16)), size: 1 << 16, group: g}
		groups, err := Groups(pv)
		if err != nil {
			return
		}
		for _, v := range groups[0].Volumes {
			b := make([]byte, 600)
			if n, err := v.ReadAt(b, max(v.Size-300, 0)); v.Err == nil && int64(n) != min(v.Size, 300) {
				t.Errorf("%+v: %d, %v", v, n, err)
			}
		}
	})
}
