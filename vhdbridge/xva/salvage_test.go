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

// Each disk is that of its own VM or snapshot.
func TestDisksAreOfTheirOwnVMs(t *testing.T) {
	a, b, c := diskA(), diskB(), diskB()
	c.ID, c.UUID, c.VM, b.VM = "Ref:5", "00000000-0000-4000-8000-000000000005", "Ref:9", "Ref:8"
	machines := []xvatest.Machine{{ID: "Ref:9", Name: "before", SnapshotOf: "Ref:0"}, {ID: "Ref:0", Name: "web"}, {ID: "Ref:8", Name: "db"}}
	a.VM = "Ref:0"
	_, vm, err := read(bytes.NewReader(xvatest.Tar(xvatest.MembersOf(machines, false, a, b, c))))
	if err != nil || vm.Name != "web" {
		t.Fatalf("%v: %+v", err, vm)
	}
	var have []string
	for _, d := range vm.Disks {
		have = append(have, d.ID+" "+d.VM+" "+d.Snapshot)
	}
	if want := []string{"Ref:10 web ", "Ref:2 db ", "Ref:5 web before"}; !slices.Equal(have, want) {
		t.Errorf("%q, want %q", have, want)
	}
}

// salvaged reads what can be read.
func salvaged(r io.Reader) (disks map[string][]byte, holes []Hole, err error) {
	x, err := NewReader(r)
	if err != nil {
		return nil, nil, err
	}
	defer x.Close()
	x.Salvage(func(h Hole) { holes = append(holes, h) })
	disks = map[string][]byte{}
	for _, d := range x.VM().Disks {
		disks[d.ID] = make([]byte, d.Size)
	}
	for {
		c, err := x.Next()
		if errors.Is(err, io.EOF) {
			return disks, holes, nil
		}
		if err != nil {
			return nil, holes, err
		}
		copy(disks[c.Disk.ID][c.Offset:], c.Data)
	}
}

// faithful tells whether a disk that was read has what the right one has, or is told to
// have a hole there.
func faithful(id string, have, want []byte, holes []Hole) error {
	have = bytes.Clone(have)
	for _, h := range holes {
		switch {
		case h.Disk.ID != id:
			continue
		case h.Whole:
			return nil
		case h.Offset < 0 || h.Length <= 0 || h.Offset+h.Length > int64(len(want)):
			return fmt.Errorf("a hole of %d bytes at %d", h.Length, h.Offset)
		}
		copy(have[h.Offset:h.Offset+h.Length], want[h.Offset:])
	}
	if !bytes.Equal(have, want) {
		return fmt.Errorf("%s has other data outside of the holes %v", id, places(holes))
	}
	return nil
}

// places are holes in short: disk, first MiB, length in MiB.
func places(holes []Hole) (out []string) {
	for _, h := range holes {
		text := fmt.Sprintf("%s %d+%d", h.Disk.ID, h.Offset>>20, (h.Length+1<<20-1)>>20)
		if h.Whole {
			text = h.Disk.ID + " whole"
		}
		out = append(out, text)
	}
	return out
}

// Of whole(), see there. Blocks of the archive are 512 bytes.
func TestSalvageTellsWhatIsMissing(t *testing.T) {
	plain := xvatest.Tar(whole())
	header := func(name string) int { return bytes.Index(plain, append([]byte(name), 0)) }
	for _, c := range []struct {
		name   string
		change func(m []xvatest.Member) []xvatest.Member
		raw    func(b []byte) []byte
		want   string
	}{
		{"nothing", nil, nil, ""},
		{"a flipped bit", func(m []xvatest.Member) []xvatest.Member { m[5].Data[77] ^= 1; return m }, nil, "Ref:10 5+1"},
		{"a wrong checksum", func(m []xvatest.Member) []xvatest.Member { m[4].Data = []byte("0123456789ABCDEF"); return m }, nil, "Ref:10 1+1"},
		{"a long checksum", func(m []xvatest.Member) []xvatest.Member { m[6].Data = make([]byte, 65); return m }, nil, "Ref:10 5+1"},
		{"no checksum", func(m []xvatest.Member) []xvatest.Member { return slices.Delete(m, 6, 7) }, nil, "Ref:10 5+1"},
		{"a chunk twice", func(m []xvatest.Member) []xvatest.Member { return slices.Insert(m, 5, m[3], m[4]) }, nil, ""},
		{"no last chunk", func(m []xvatest.Member) []xvatest.Member { return slices.Delete(m, 7, 9) }, nil, "Ref:10 6+4"},
		{"no first chunk", func(m []xvatest.Member) []xvatest.Member { return slices.Delete(m, 1, 3) }, nil, "Ref:10 0+1"},
		{"no second disk", func(m []xvatest.Member) []xvatest.Member { return m[:9] }, nil, "Ref:2 whole"},
		{"a link between", func(m []xvatest.Member) []xvatest.Member {
			return slices.Insert(m, 5, xvatest.Member{Name: "Ref:10/00000002", Type: tar.TypeSymlink})
		}, nil, ""},
		{"a header of a chunk", nil, func(b []byte) []byte { b[header("Ref:10/00000005")+3] ^= 0x55; return b }, "Ref:10 2+7"},
		{"a header of a checksum", nil, func(b []byte) []byte { b[header("Ref:10/00000005.xxhash")+120] ^= 0x55; return b }, "Ref:10 5+1 Ref:10 6+3"},
		{"blocks of zeros between", nil, func(b []byte) []byte { clear(b[header("Ref:10/00000005")-1024:][:2048]); return b }, "Ref:10 1+1 Ref:10 2+7"},
		{"the end is cut off", nil, func(b []byte) []byte { return b[:header("Ref:2/00000003")+700] }, "Ref:2 1+3"},
		{"cut off between two", nil, func(b []byte) []byte { return b[:header("Ref:2/00000003")] }, "Ref:2 1+3"},
	} {
		members := whole()
		if c.change != nil {
			members = c.change(members)
		}
		b := xvatest.Tar(members)
		if c.raw != nil {
			b = c.raw(bytes.Clone(plain))
		}
		for how, in := range map[string]io.Reader{"whole": bytes.NewReader(b), "pieces": iotest.HalfReader(bytes.NewReader(b))} {
			disks, holes, err := salvaged(in)
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			if have := strings.Join(places(holes), " "); have != c.want {
				t.Errorf("%s, %s: holes %s, want %s", c.name, how, have, c.want)
			}
			for _, d := range []xvatest.Disk{diskA(), diskB()} {
				if err := faithful(d.ID, disks[d.ID], d.Content, holes); err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
			}
		}
	}
}

// An empty chunk that is lost moves all that follows: the disk is given up.
func TestSalvageGivesUpWhatItCannotPlace(t *testing.T) {
	d := diskA()
	members := []xvatest.Member{xvatest.Descriptor("web", d)}
	members = append(members, xvatest.Chunk(d.ID, 0, d.Content[:1<<20], false)...)
	members = append(members, xvatest.Chunk(d.ID, 1, d.Content[1<<20:2<<20], false)...)
	members = append(members, xvatest.Chunk(d.ID, 2, nil, false)...)
	members = append(members, xvatest.Chunk(d.ID, 6, d.Content[5<<20:6<<20], false)...)
	members = append(members, xvatest.Chunk(d.ID, 10, d.Content[9<<20:], false)...)
	b := xvatest.Tar(members)
	b[bytes.Index(b, append([]byte("Ref:10/00000002"), 0))+3] ^= 0x55
	_, holes, err := salvaged(bytes.NewReader(b))
	if err != nil || len(holes) == 0 || !holes[len(holes)-1].Whole {
		t.Errorf("%v, %v", places(holes), err)
	}
	b = xvatest.Tar(whole())
	b[bytes.Index(b, append([]byte("Ref:10/00000001"), 0))+3] ^= 0x55
	end := bytes.Index(b, append([]byte("Ref:10/00000009"), 0))
	_, holes, err = salvaged(bytes.NewReader(b[:end]))
	if err != nil || len(holes) < 2 || !strings.Contains(holes[1].Reason, "would tell whether") {
		t.Errorf("%+v, %v", holes, err)
	}
}

// Wherever an archive is written over or cut off: what is handed out is right, or told.
func TestSalvageIsFaithful(t *testing.T) {
	plain := xvatest.Tar(whole())
	start := len(whole()[0].Data) + 1024 // behind ova.xml
	for seed := range uint64(150) {
		chance := rand.New(rand.NewPCG(seed, 4))
		b := bytes.Clone(plain)
		for range 1 + chance.IntN(3) {
			at := start + chance.IntN(len(b)-start)
			n := min(1<<chance.IntN(18), len(b)-at)
			for i := range n {
				b[at+i] = byte(chance.Uint32())
			}
		}
		if chance.IntN(3) == 0 {
			b = b[:start+chance.IntN(len(b)-start)]
		}
		if packed := chance.IntN(6); packed == 0 {
			b = xvatest.Gzip(plain)
			b[len(b)/2+chance.IntN(len(b)/2)] ^= 1
		}
		disks, holes, err := salvaged(bytes.NewReader(b))
		if err != nil {
			var bad *FormatError
			if !errors.As(err, &bad) {
				t.Errorf("seed %d: %v", seed, err)
			}
			continue
		}
		for _, d := range []xvatest.Disk{diskA(), diskB()} {
			if err := faithful(d.ID, disks[d.ID], d.Content, holes); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		}
	}
}

// An input that cannot be read is no damage.
func TestSalvageDoesNotHideErrorsOfTheInput(t *testing.T) {
	plain := xvatest.Tar(whole())
	fault := errors.New("the line is down")
	_, _, err := salvaged(io.MultiReader(bytes.NewReader(plain[:3<<20]), iotest.ErrReader(fault)))
	if !errors.Is(err, fault) {
		t.Errorf("%v", err)
	}
}
