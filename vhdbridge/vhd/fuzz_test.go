package vhd

import (
	"bytes"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
)

// seeds are small images of all sorts, sound and hostile.
func seeds(f *testing.F) (images [][]byte) {
	f.Helper()
	l := newLab(f)
	l.create("empty", CreateOptions{Size: 1 << 20})
	l.create("fixed", CreateOptions{Size: 4096, Fixed: true})
	l.create("disk", CreateOptions{Size: 64 << 10, BlockSize: 4096, Backing: "base.vhd", BackingFormat: "vhd", ParentID: UUID{1}.String()})
	l.put("disk", 0, 512, 1)
	l.put("disk", 8192, 4096, 2)
	for _, name := range []string{"empty", "fixed", "disk"} {
		images = append(images, l.bytes(name))
	}
	for _, s := range spoilers() {
		h := &lab{f, l.mem.Crash(1)}
		s.spoil(h)
		images = append(images, h.bytes("disk"))
	}
	i := l.open("disk")
	var midway *vfstest.Mem
	l.mem.Before(3, func() { midway = l.mem.Crash(1) }) // a record is there, not carried out
	l.must(i.SetHidden(true))
	return append(images, (&lab{f, midway}).bytes("disk"))
}

// FuzzReadHeaders: every error is of a known kind, and what footers and header say
// is the same once they have been encoded again.
func FuzzReadHeaders(f *testing.F) {
	for _, image := range seeds(f) {
		f.Add(image)
	}
	f.Fuzz(func(t *testing.T, image []byte) {
		m, err := load(bytes.NewReader(image), int64(len(image)))
		if err != nil {
			wantKnownError(t, err)
			return
		}
		b := m.foot.encode()
		if again, err := decodeFooter(&b, 0); err != nil || again != m.foot {
			t.Fatalf("footer %+v, again %+v, %v", m.foot, again, err)
		}
		if m.foot.kind == Fixed {
			return
		}
		if m.head.blocks(m.foot.size) > int64(m.head.entries) || m.head.table+m.head.tableBytes() > m.size {
			t.Fatalf("%+v", m.head)
		}
		h := m.head.encode()
		again, err := decodeHeader(&h, m.at)
		if err != nil || again.locators != m.head.locators || again.table != m.head.table || again.blockSize != m.head.blockSize {
			t.Fatalf("header %+v, again %+v, %v", m.head, again, err)
		}
	})
}

// FuzzCheck: a check only reads; a repair leaves what a check finds afterwards,
// makes nothing worse, and changes nothing that a guest reads.
func FuzzCheck(f *testing.F) {
	for _, image := range seeds(f) {
		f.Add(image, true)
		f.Add(image, false)
	}
	f.Fuzz(func(t *testing.T, image []byte, all bool) {
		l := newLab(t)
		file, err := l.mem.Create(l.path("disk"), 0o600)
		l.must(err)
		_, err = file.WriteAt(image, 0)
		l.must(err)
		before, err := Check(file, RepairNone)
		if !bytes.Equal(l.bytes("disk"), image) {
			t.Fatal("a check has written")
		}
		if err != nil {
			wantKnownError(t, err)
			return
		}
		view, readable := l.view("disk")
		if readable && before.Damage > 0 {
			t.Fatalf("it is read though it is damaged: %v", before.Problems)
		}
		repair := RepairLeaks
		if all {
			repair = RepairAll
		}
		got, err := Check(file, repair)
		if err != nil {
			wantKnownError(t, err)
			return
		}
		again := l.check("disk", RepairNone)
		if again.Corruptions != got.Corruptions || again.Leaks != got.Leaks {
			t.Fatalf("said to remain: %v, remains: %v", got.Problems, again.Problems)
		}
		if again.Corruptions > before.Corruptions || all && before.Damage == 0 && again.Corruptions > 0 {
			t.Fatalf("before %v, after %v", before.Problems, again.Problems)
		}
		if now, ok := l.view("disk"); readable && (!ok || !bytes.Equal(now, view)) {
			t.Fatalf("the guest reads something else; repaired: %v", got.Repaired)
		}
	})
}

// view is what the image itself has, if it can be read and is small.
func (l *lab) view(name string) ([]byte, bool) {
	f := l.file(name)
	s, err := Open(f)
	if err != nil || s.Image().VirtualSize > 16<<20 || s.Image().Encrypted {
		return nil, false
	}
	b := make([]byte, s.Image().VirtualSize)
	_, err = s.ReadAt(b, 0)
	return b, err == nil
}
