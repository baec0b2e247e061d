package vhdbridge

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/lvm2"
)

// unpackVolumes unpacks the repository on a physical volume, holes as holes.
func unpackVolumes(t testing.TB) string {
	t.Helper()
	f, err := os.Open("lvm2/testdata/repository.tar.zst")
	must(t, err)
	defer f.Close()
	z, err := zstd.NewReader(f)
	must(t, err)
	defer z.Close()
	dir := t.TempDir()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		must(t, err)
		if !h.FileInfo().IsDir() {
			must(t, writeSparse(filepath.Join(dir, filepath.Base(h.Name)), r, h.Size))
		}
	}
}

func writeSparse(path string, r io.Reader, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	block, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	for off := int64(0); off < size; {
		n, err := io.ReadFull(r, block[:min(int64(len(block)), size-off)])
		if err != nil {
			return errors.Join(err, f.Close())
		}
		if !bytes.Equal(block[:n], zeros[:n]) {
			if _, err := f.WriteAt(block[:n], off); err != nil {
				return errors.Join(err, f.Close())
			}
		}
		off += int64(n)
	}
	return errors.Join(f.Truncate(size), f.Close())
}

func openRaw(path string) (vfs.File, error) { return vfs.OS().Open(path, false) }

func openVolumes(t testing.TB, paths ...string) *Volumes {
	t.Helper()
	v, err := OpenVolumes(vfs.OS(), openRaw, paths...)
	must(t, err)
	t.Cleanup(func() { must(t, v.Close()) })
	return v
}

// A volumeMeta is what the sample's maker says of a logical volume.
type volumeMeta struct {
	LV, UUID, Name, Description, SHA256 string
	Parent                              string
	Raw                                 bool
	Hidden                              int
	VirtualSize                         int64  `json:"virtual_size"`
	Size                                int64  `json:"lv_size"`
	Coalesceable                        bool   `json:"coalesceable"`
	Leaf                                bool   `json:"leaf_coalesceable"`
	Snapshot                            bool   `json:"is_a_snapshot"`
	SnapshotOf                          string `json:"snapshot_of"`
	SnapshotTime                        string `json:"snapshot_time"`
}

func volumeMetas(t testing.TB, dir string) []volumeMeta {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "meta.json"))
	must(t, err)
	var all []volumeMeta
	must(t, json.Unmarshal(data, &all))
	return all
}

// Everything that the maker of the sample says of its nodes, content and names included.
func TestARepositoryOnAPhysicalVolume(t *testing.T) {
	dir := unpackVolumes(t)
	v := openVolumes(t, filepath.Join(dir, "pv.img"))
	m, err := v.Management()
	must(t, err)
	if v.UUID() != "c4b7f0d2-5e16-4a39-9f28-7d60a1e3b985" || m.UUID != v.UUID() || m.Name != "iSCSI mail & db" || m.Description != "LUN 4 of the old filer" || len(v.Warnings) > 0 {
		t.Errorf("%s %+v %v", v.UUID(), m, v.Warnings)
	}
	b := bridge(v)
	r := scan(t, v, v.Dir)
	all := volumeMetas(t, dir)
	if len(r.Nodes) != len(all) {
		t.Errorf("%d nodes, want %d", len(r.Nodes), len(all))
	}
	for _, want := range all {
		n := r.Node(want.LV)
		if n == nil || n.Err != nil {
			t.Fatalf("%s: %+v", want.LV, n)
		}
		want.Coalesceable, want.Leaf = false, false // there is nothing to be written to
		vdi := m.VDIs[want.UUID]
		have := volumeMeta{LV: n.Name, UUID: n.VDI, Name: vdi.Name, Description: vdi.Description, SHA256: sumOf(t, b, n),
			Parent: want.Parent, Raw: n.Format == formatRaw, VirtualSize: n.VirtualSize, Size: n.PhysicalSize, Coalesceable: n.Coalesceable, Leaf: n.LeafCoalesceable,
			Snapshot: vdi.Snapshot, SnapshotOf: vdi.SnapshotOf}
		if n.Parent != "" {
			have.Parent = r.Node(n.Parent).VDI
		}
		if n.Hidden {
			have.Hidden = 1
		}
		if !vdi.SnapshotTime.IsZero() {
			have.SnapshotTime = vdi.SnapshotTime.Format("20060102T15:04:05Z")
		}
		if have != want {
			t.Errorf("%+v, want\n%+v", have, want)
		}
		if vdi.Managed != (want.Hidden == 0) {
			t.Errorf("%s: managed %t", n.Name, vdi.Managed)
		}
	}
	if _, there := m.VDIs["796b3015-3971-57a9-bfd2-2e481f2b6ec5"]; there {
		t.Error("a VDI that was deleted is told")
	}
}

// Nothing is ever written to a repository that is read like this.
func TestAPhysicalVolumeIsOnlyRead(t *testing.T) {
	dir := unpackVolumes(t)
	v := openVolumes(t, filepath.Join(dir, "pv.img"))
	path := filepath.Join(v.Dir, "VHD-25ca0d3e-a78c-52f6-ad1e-32cb3f742f0b")
	f, err := v.Open(path, false)
	must(t, err)
	info, err := v.Stat(path)
	must(t, err)
	for what, err := range map[string]error{
		"open": second(v.Open(path, true)), "create": second(v.Create(v.Dir+"/new", 0o600)), "write": v.WriteFile(v.Dir+"/new", nil, 0o600),
		"rename": v.Rename(path, filepath.Join(dir, "away")), "rename into": v.Rename(filepath.Join(dir, "meta.json"), path), "remove": v.RemoveExact(path, info.ID),
		"write at": second(f.WriteAt([]byte{1}, 0)), "truncate": f.Truncate(0), "punch": f.Punch(0, 512), "reserve": f.Reserve(0, 512), "copy": second(f.Copy(0, f, 512, 512)), "lock": f.Lock(vfs.LockWrite),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := v.Open(v.Dir+"/VHD-none", false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	must(t, v.WriteFile(filepath.Join(dir, "beside"), []byte("x"), 0o600))
	var busy *vfs.BusyError
	w, err := vfs.OS().Open(filepath.Join(dir, "pv.img"), true)
	must(t, err)
	defer w.Close()
	if err := w.Lock(vfs.LockWrite); !errors.As(err, &busy) {
		t.Errorf("somebody may write to it meanwhile: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// Holes of the copy are holes of the volumes: they are not read.
func TestHolesOfACopyAreNotRead(t *testing.T) {
	dir := unpackVolumes(t)
	v := openVolumes(t, filepath.Join(dir, "pv.img"))
	for _, lv := range v.Group.Volumes {
		f, err := v.Open(filepath.Join(v.Dir, lv.Name), false)
		must(t, err)
		data := make([]byte, lv.Size)
		_, err = lv.ReadAt(data, 0)
		must(t, err)
		told := int64(0)
		for off := int64(0); ; {
			start, end, err := f.NextData(off)
			must(t, err)
			if len(bytes.Trim(data[off:start], "\x00")) > 0 {
				t.Errorf("%s: data between %d and %d are told as a hole", lv.Name, off, start)
			}
			if start == lv.Size {
				break
			}
			told += end - start
			off = end
		}
		if told == lv.Size && strings.HasPrefix(lv.Name, "VHD-25ca") {
			t.Errorf("%s: no hole is told", lv.Name)
		}
	}
}

func TestWhatIsNoRepositoryOnVolumes(t *testing.T) {
	dir := unpackVolumes(t)
	pv := filepath.Join(dir, "pv.img")
	data, err := os.ReadFile(filepath.Join(dir, "meta.json"))
	must(t, err)
	text := filepath.Join(dir, "text")
	must(t, os.WriteFile(text, data, 0o600))
	disk := filepath.Join(dir, "disk")
	must(t, os.WriteFile(disk, slices.Concat(make([]byte, 510), []byte{0x55, 0xaa}, make([]byte, 4096)), 0o600))
	for path, want := range map[string]string{text: "no physical volume", disk: "table of partitions", filepath.Join(dir, "none"): "no such file"} {
		_, err := OpenVolumes(vfs.OS(), openRaw, path)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := OpenVolumes(vfs.OS(), openRaw, pv, text); !errors.Is(err, lvm2.ErrNoLabel) {
		t.Errorf("%v", err)
	}
}

// What of a management volume cannot be read is told; the rest is there.
func TestAManagementVolumeInPieces(t *testing.T) {
	dir := unpackVolumes(t)
	v := openVolumes(t, filepath.Join(dir, "pv.img"))
	i := slices.IndexFunc(v.Group.Volumes, func(lv *lvm2.Volume) bool { return lv.Name == managementName })
	whole := make([]byte, v.Group.Volumes[i].Size)
	_, err := v.Group.Volumes[i].ReadAt(whole, 0)
	must(t, err)
	all, err := ReadManagement(bytes.NewReader(whole), int64(len(whole)))
	must(t, err)
	broken := slices.Clone(whole)
	copy(broken[6*managementSector:], "<vdi><broken")
	m, err := ReadManagement(bytes.NewReader(broken), int64(len(broken)))
	if err == nil || !strings.Contains(err.Error(), "sector 6") || len(m.VDIs) != len(all.VDIs)-1 {
		t.Errorf("%v, %d of %d", err, len(m.VDIs), len(all.VDIs))
	}
	for _, head := range []string{"", "XSSM:99999999999:1:2", "XSSM:12:1:2", "XSSM:x", "YSSM:2048"} {
		broken := append([]byte(head), make([]byte, 4096)...)
		if m, err := ReadManagement(bytes.NewReader(broken), int64(len(broken))); err == nil {
			t.Errorf("%q: %+v", head, m)
		}
	}
}
