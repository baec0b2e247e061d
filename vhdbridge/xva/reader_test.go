package xva

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/virt-rotate/virt-rotate/vhdbridge/xva/xvatest"
)

const (
	uuidA = "11111111-2222-3333-4444-555555555555"
	uuidB = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
)

// content is a disk with noise at some places, in bytes.
func content(size int, seed byte, at ...int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{seed})
	for _, off := range at {
		_, _ = r.Read(b[off:min(off+5000, size)])
	}
	return b
}

func diskA() xvatest.Disk {
	return xvatest.Disk{ID: "Ref:10", UUID: uuidA, Name: "root <1>", Device: "0", Drive: "Disk", Used: 3 << 20,
		Content: content(9<<20+512, 1, 0, 1<<20-100, 5<<20)}
}

func diskB() xvatest.Disk {
	return xvatest.Disk{ID: "Ref:2", UUID: strings.ToUpper(uuidB), Name: "data", Device: "1", Drive: "Disk", Content: content(4<<20, 2, 3<<20)}
}

func cd() xvatest.Disk {
	return xvatest.Disk{ID: "Ref:3", UUID: uuidB, Name: "cd.iso", Device: "3", Drive: "CD", Content: content(1<<20, 3)}
}

// read puts the disks together.
func read(r io.Reader) (map[string][]byte, VM, error) {
	x, err := NewReader(r)
	if err != nil {
		return nil, VM{}, err
	}
	defer x.Close()
	disks := map[string][]byte{}
	for _, d := range x.VM().Disks {
		disks[d.ID] = make([]byte, d.Size)
	}
	for {
		c, err := x.Next()
		if errors.Is(err, io.EOF) {
			return disks, x.VM(), nil
		}
		if err != nil {
			if _, again := x.Next(); again.Error() != err.Error() {
				return nil, x.VM(), fmt.Errorf("the error does not stay: %w", again)
			}
			return nil, x.VM(), err
		}
		copy(disks[c.Disk.ID][c.Offset:], c.Data)
	}
}

func TestReadsWhatXapiWrites(t *testing.T) {
	for _, sha := range []bool{false, true} {
		plain := xvatest.Tar(xvatest.Members("web & co", sha, diskA(), cd(), diskB()))
		for name, b := range map[string][]byte{"plain": plain, "gzip": xvatest.Gzip(plain), "zstd": xvatest.Zstd(plain)} {
			for how, in := range map[string]io.Reader{"whole": bytes.NewReader(b), "pieces": iotest.HalfReader(bytes.NewReader(b))} {
				disks, vm, err := read(in)
				if err != nil || !bytes.Equal(disks["Ref:10"], diskA().Content) || !bytes.Equal(disks["Ref:2"], diskB().Content) {
					t.Errorf("%s, %s, sha %v: %v", name, how, sha, err)
				}
				want := []Disk{{"Ref:10", uuidA, "root <1>", 9<<20 + 512, 3 << 20, "0", "web & co", "", true}, {"Ref:2", uuidB, "data", 4 << 20, 0, "1", "web & co", "", true}}
				if vm.Name != "web & co" || !slices.Equal(vm.Disks, want) {
					t.Errorf("%s: %+v", name, vm)
				}
			}
		}
	}
}

// An empty chunk keeps a connection busy: it has a number, and moves what follows. Its
// checksum is the one that the xxHash specification gives for no bytes.
func TestEmptyChunksHaveANumberButNoPlace(t *testing.T) {
	d := diskA()
	members := []xvatest.Member{xvatest.Descriptor("web", d)}
	members = append(members, xvatest.Chunk(d.ID, 0, d.Content[:1<<20], false)...)
	members = append(members, xvatest.Chunk(d.ID, 1, d.Content[1<<20:2<<20], false)...)
	members = append(members, xvatest.Member{Name: "Ref:10/00000003"}, xvatest.Member{Name: "Ref:10/00000003.xxhash", Data: []byte("EF46DB3751D8E999")})
	members = append(members, xvatest.Chunk(d.ID, 6, d.Content[5<<20:6<<20], false)...)
	members = append(members, xvatest.Chunk(d.ID, 7, nil, true)...)
	members = append(members, xvatest.Chunk(d.ID, 11, d.Content[9<<20:], false)...)
	disks, _, err := read(bytes.NewReader(xvatest.Tar(members)))
	if err != nil || !bytes.Equal(disks[d.ID], d.Content) {
		t.Fatalf("%v", err)
	}
}

// Members of whole are: 0 ova.xml, 1..2 chunk 0, 3..4 chunk 1, 5..6 chunk 5, 7..8 chunk
// 9 of Ref:10; 9..10 chunk 0, 11..12 chunk 3 of Ref:2.
func whole() []xvatest.Member { return xvatest.Members("web", false, diskA(), diskB()) }

func TestRefusesWhatIsNotWhole(t *testing.T) {
	full := make([]byte, 1<<20)
	for _, c := range []struct {
		name   string
		change func(m []xvatest.Member) []xvatest.Member
		want   string
	}{
		{"a flipped bit", func(m []xvatest.Member) []xvatest.Member { m[5].Data[77] ^= 1; return m }, "Ref:10/00000005 (at byte"},
		{"a flipped bit, told", func(m []xvatest.Member) []xvatest.Member { m[5].Data[77] ^= 1; return m }, "wrong checksum"},
		{"a wrong checksum", func(m []xvatest.Member) []xvatest.Member { m[6].Data = []byte("0123456789ABCDEF"); return m }, "wrong checksum"},
		{"an empty checksum", func(m []xvatest.Member) []xvatest.Member { m[6].Data = nil; return m }, "wrong checksum"},
		{"a cut checksum", func(m []xvatest.Member) []xvatest.Member { m[6].Data = m[6].Data[:15]; return m }, "wrong checksum"},
		{"a long checksum", func(m []xvatest.Member) []xvatest.Member { m[6].Data = full[:65]; return m }, "that is no checksum"},
		{"no checksum", func(m []xvatest.Member) []xvatest.Member { return slices.Delete(m, 6, 7) }, "its checksum does not follow"},
		{"another chunk's checksum", func(m []xvatest.Member) []xvatest.Member { m[6].Name = m[4].Name; return m }, "its checksum does not follow"},
		{"a checksum that is a link", func(m []xvatest.Member) []xvatest.Member { m[6].Type, m[6].Data = tar.TypeSymlink, nil; return m }, "its checksum does not follow"},
		{"a chunk twice", func(m []xvatest.Member) []xvatest.Member { return slices.Insert(m, 5, m[3], m[4]) }, "twice"},
		{"chunks out of order", func(m []xvatest.Member) []xvatest.Member { return slices.Concat(m[:3], m[5:7], m[3:5], m[7:]) }, "in order"},
		{"no first chunk", func(m []xvatest.Member) []xvatest.Member { return slices.Delete(m, 1, 3) }, "does not begin with chunk 0"},
		{"an empty first chunk", func(m []xvatest.Member) []xvatest.Member {
			return slices.Insert(m, 1, xvatest.Chunk("Ref:10", 0, nil, false)...)
		}, "does not begin with chunk 0"},
		{"no last chunk", func(m []xvatest.Member) []xvatest.Member { return slices.Delete(m, 7, 9) }, "the disk Ref:10 ends at byte 6291456 of 9437696: it is cut off"},
		{"no last chunk of the last disk", func(m []xvatest.Member) []xvatest.Member { return m[:11] }, "the disk Ref:2 ends at byte 1048576 of 4194304: it is cut off"},
		{"no second disk", func(m []xvatest.Member) []xvatest.Member { return m[:9] }, "the disk Ref:2 is missing"},
		{"no disks", func(m []xvatest.Member) []xvatest.Member { return m[:1] }, "the disk Ref:10 is missing"},
		{"a large chunk", func(m []xvatest.Member) []xvatest.Member {
			return slices.Concat(m[:1], xvatest.Chunk("Ref:10", 0, make([]byte, 1<<20+1), false), m[3:])
		}, "1 MiB at most"},
		{"a short chunk within", func(m []xvatest.Member) []xvatest.Member {
			return slices.Concat(m[:3], xvatest.Chunk("Ref:10", 1, full[:1<<20-512], false), m[5:])
		}, "only the last chunk"},
		{"a last chunk that is too long", func(m []xvatest.Member) []xvatest.Member {
			return slices.Concat(m[:7], xvatest.Chunk("Ref:10", 9, full, false), m[9:])
		}, "beyond the end of the disk"},
		{"a chunk after the last", func(m []xvatest.Member) []xvatest.Member {
			return slices.Insert(m, 9, xvatest.Chunk("Ref:10", 10, full, false)...)
		}, "beyond the end of the disk"},
		{"an empty chunk after the last", func(m []xvatest.Member) []xvatest.Member {
			return slices.Insert(m, 9, xvatest.Chunk("Ref:10", 10, nil, false)...)
		}, "beyond the end of the disk"},
		{"a number far beyond", func(m []xvatest.Member) []xvatest.Member {
			return slices.Insert(m, 9, xvatest.Chunk("Ref:10", 1<<40, full, false)...)
		}, "beyond the end of the disk"},
		{"a number beyond reason", func(m []xvatest.Member) []xvatest.Member { m[7].Name = "Ref:10/9223372036854775807"; return m }, "not named as a chunk"},
		{"a disk in two pieces", func(m []xvatest.Member) []xvatest.Member { return slices.Concat(m, m[1:3]) }, "has ended before"},
		{"a disk within another", func(m []xvatest.Member) []xvatest.Member { return slices.Concat(m[:3], m[9:], m[3:9]) }, "is cut off"},
		{"a name that climbs", func(m []xvatest.Member) []xvatest.Member { m[5].Name = "../../etc/passwd"; return m }, "no disk of ova.xml has that name"},
		{"a name that climbs within", func(m []xvatest.Member) []xvatest.Member { m[5].Name = "Ref:10/../00000005"; return m }, "not named as a chunk"},
		{"an absolute name", func(m []xvatest.Member) []xvatest.Member { m[5].Name = "/Ref:10/00000005"; return m }, "no disk of ova.xml has that name"},
		{"a name with a sign", func(m []xvatest.Member) []xvatest.Member { m[5].Name = "Ref:10/+0000005"; return m }, "not named as a chunk"},
		{"a short name", func(m []xvatest.Member) []xvatest.Member { m[5].Name = "Ref:10/5"; return m }, "not named as a chunk"},
		{"a link", func(m []xvatest.Member) []xvatest.Member { m[5].Type, m[5].Data = tar.TypeSymlink, nil; return m }, "no plain file"},
		{"an unknown disk", func(m []xvatest.Member) []xvatest.Member { m[9].Name = "Ref:99/00000000"; return m }, "no disk of ova.xml has that name"},
		{"a stray file", func(m []xvatest.Member) []xvatest.Member { return append(m, xvatest.Member{Name: "notes"}) }, "no disk of ova.xml has that name"},
		{"ova.xml again", func(m []xvatest.Member) []xvatest.Member { return append(m, m[0]) }, "no disk of ova.xml has that name"},
	} {
		m := whole()
		for i := range m {
			m[i].Data = slices.Clone(m[i].Data)
		}
		_, _, err := read(bytes.NewReader(xvatest.Tar(c.change(m))))
		var format *FormatError
		if !errors.As(err, &format) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Cut off at whatever byte, an export is never taken for whole. What is left out at the
// very end are zeros that say nothing.
func TestRefusesWhatIsCutOff(t *testing.T) {
	d := diskB()
	d.Content = d.Content[3<<20 : 3<<20+8192]
	plain := xvatest.Tar(xvatest.Members("web", false, d))
	const trailer = 1024 + 512 - 16 // end of the archive, padding of the last checksum
	for name, b := range map[string][]byte{"plain": plain, "gzip": xvatest.Gzip(plain), "zstd": xvatest.Zstd(plain)} {
		said := 0
		for n := range len(b) {
			if name == "plain" && n >= len(b)-trailer {
				break
			}
			_, _, err := read(bytes.NewReader(b[:n]))
			var format *FormatError
			if !errors.As(err, &format) && !errors.Is(err, ErrNotXVA) {
				t.Fatalf("%s, %d of %d bytes: %v", name, n, len(b), err)
			}
			said++
		}
		if _, _, err := read(bytes.NewReader(b)); err != nil || said < 5000 {
			t.Fatalf("%s: %d of %d, %v", name, said, len(b), err)
		}
	}
}

func TestRefusesWhatFollowsTheEnd(t *testing.T) {
	plain := xvatest.Tar(whole())
	for _, c := range []struct {
		more []byte
		ok   bool
	}{{make([]byte, 20<<10), true}, {[]byte("x"), false}, {make([]byte, 3<<20), false}} {
		_, _, err := read(bytes.NewReader(slices.Concat(plain, c.more)))
		if (err == nil) != c.ok {
			t.Errorf("%d bytes: %v", len(c.more), err)
		}
	}
}

// The decompressor's own checksum comes last of all, and is looked at.
func TestRefusesACompressedExportWithAWrongEnd(t *testing.T) {
	b := xvatest.Gzip(xvatest.Tar(whole()))
	b[len(b)-6] ^= 1
	if _, _, err := read(bytes.NewReader(b)); err == nil {
		t.Fatal("read")
	}
}

func TestAnErrorOfReadingIsNoFormatError(t *testing.T) {
	plain, broken := xvatest.Tar(whole()), errors.New("the disk is on fire")
	for _, n := range []int{0, 100, 5000, 1 << 20, len(plain) - 1} {
		_, _, err := read(io.MultiReader(bytes.NewReader(plain[:n]), iotest.ErrReader(broken)))
		var format *FormatError
		if !errors.Is(err, broken) || errors.As(err, &format) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func TestOtherFilesAreNoExports(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing": nil, "text": []byte("hello, world"), "zeros": make([]byte, 10240), "another archive": xvatest.Tar([]xvatest.Member{{Name: "x"}}),
		"gzip of something": xvatest.Gzip([]byte("hello")), "zstd of something": xvatest.Zstd([]byte("hello")),
		"a directory": xvatest.Tar([]xvatest.Member{{Name: "ova.xml", Type: tar.TypeDir}}),
	} {
		if _, err := NewReader(bytes.NewReader(b)); !errors.Is(err, ErrNotXVA) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHostileDescriptors(t *testing.T) {
	same := diskB()
	same.UUID = uuidA
	sameID := diskB()
	sameID.ID = "Ref:10"
	for name, c := range map[string]struct {
		m    xvatest.Member
		want string
	}{
		"no XML":           {xvatest.Member{Data: []byte("hello")}, "empty"},
		"cut off":          {xvatest.Member{Data: xvatest.Descriptor("web", diskA()).Data[:900]}, "XML syntax error"},
		"empty":            {xvatest.Member{}, "empty"},
		"other XML":        {xvatest.Member{Data: []byte("<html/>")}, "<html>"},
		"the first format": {xvatest.Member{Data: []byte("<appliance version='0.1'/>")}, "not supported"},
		"no objects":       {xvatest.Member{Data: []byte("<value><struct/></value>")}, "no list of objects"},
		"too large":        {xvatest.Member{Data: make([]byte, maxDescriptor+1)}, "more than"},
		"an entity":        {xvatest.Member{Data: []byte("<!DOCTYPE x [<!ENTITY a 'aaaa'>]><value>&a;</value>")}, "invalid character entity"},
		"deep":             {xvatest.Member{Data: []byte(strings.Repeat("<value><array><data>", 200000))}, "exceeded max depth"},
		"a uuid that climbs": {xvatest.Descriptor("web", xvatest.Disk{ID: "Ref:1", UUID: "../../etc/passwd", Content: make([]byte, 512)}),
			`uuid is "../../etc/passwd"`},
		"a directory that climbs": {xvatest.Descriptor("web", xvatest.Disk{ID: "../1", UUID: uuidA, Content: make([]byte, 512)}), "no name of a directory"},
		"a disk of no size":       {xvatest.Descriptor("web", xvatest.Disk{ID: "Ref:1", UUID: uuidA}), "virtual_size"},
		"half a sector":           {xvatest.Descriptor("web", xvatest.Disk{ID: "Ref:1", UUID: uuidA, Content: make([]byte, 700)}), "virtual_size"},
		"two of one uuid":         {xvatest.Descriptor("web", diskA(), same), "have the same uuid"},
		"two of one id":           {xvatest.Descriptor("web", diskA(), sameID), "have the same id"},
	} {
		c.m.Name = "ova.xml"
		_, err := NewReader(bytes.NewReader(xvatest.Tar([]xvatest.Member{c.m})))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzReader: what is read to its end without an error is whole and in order.
func FuzzReader(f *testing.F) {
	d := diskB()
	d.Content = d.Content[3<<20 : 3<<20+1024]
	small := xvatest.Members("web", true, d)
	f.Add(xvatest.Tar(small))
	f.Add(xvatest.Gzip(xvatest.Tar(small)))
	f.Add(xvatest.Zstd(xvatest.Tar(small)))
	f.Add(xvatest.Tar(small[:2]))
	f.Add(xvatest.Tar([]xvatest.Member{{Name: "ova.xml", Data: []byte("<value/>")}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := NewReader(bytes.NewReader(b))
		if err != nil {
			return
		}
		defer x.Close()
		ends := map[string]int64{}
		for {
			c, err := x.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return
			}
			if len(c.Data) == 0 || len(c.Data) > chunkSize || c.Offset < ends[c.Disk.ID] || c.Offset+int64(len(c.Data)) > c.Disk.Size {
				t.Fatalf("%d bytes at %d of %+v, after %d", len(c.Data), c.Offset, c.Disk, ends[c.Disk.ID])
			}
			ends[c.Disk.ID] = c.Offset + int64(len(c.Data))
		}
		for _, d := range x.VM().Disks {
			if end := ends[d.ID]; end != d.Size && (end != 0 || d.attached) {
				t.Fatalf("%+v is taken for whole, and ends at %d", d, end)
			}
		}
	})
}
