package chaintest

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/internal/vfs/vfstest"
	"github.com/virt-rotate/virt-rotate/qcow2"
	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// maxFuzzDisk is the largest disk that is read whole, in bytes.
const maxFuzzDisk = 16 << 20

// FuzzCommit merges one image, whatever its bytes, into another. It is refused,
// and then no byte has changed; or it is done, and then the guest reads what
// it read before, a child of both reads the same, and the base is no worse.
func FuzzCommit(f *testing.F) {
	for i, k := range kits() {
		for _, op := range Operations("qcow2")[2:3] {
			o := newForest(f, k, k, op, uint64(i))
			f.Add(contents(o, "base"), contents(o, "b"))
			f.Add(contents(o, "base"), contents(o, "a"))
		}
	}
	f.Fuzz(func(t *testing.T, base, top []byte) { fuzzCommit(t, kits()[0], base, top) })
}

// FuzzCommitVHD is FuzzCommit with VHDs.
func FuzzCommitVHD(f *testing.F) {
	for i, k := range vhds()[1:] {
		o := newForest(f, k, k, Operations("vhd")[2], uint64(i))
		f.Add(contents(o, "base"), contents(o, "a"))
	}
	f.Fuzz(func(t *testing.T, base, top []byte) { fuzzCommit(t, vhds()[0], base, top) })
}

func fuzzCommit(t *testing.T, k Kit, base, top []byte) {
	watchdog := time.AfterFunc(20*time.Second, func() { panic("it takes more than 20 s") })
	defer watchdog.Stop()
	w := hostile(t, k, base, top)
	want, readable := w.view("a")
	before := w.corruptions("base")
	failure := commit("a", "base")(t.Context(), w.store())
	if failure != nil {
		w.untouched(failure, base, top)
		return
	}
	if have, ok := w.view("base"); readable && (!ok || !bytes.Equal(have, want)) {
		t.Fatalf("the base does not read as the top did")
	}
	if after := w.corruptions("base"); after > before {
		t.Fatalf("%d corruptions, %d before", after, before)
	}
}

// hostile is a forest of two files with those bytes.
func hostile(t testing.TB, k Kit, base, top []byte) *forest {
	mem := vfstest.New()
	w := &forest{bench: bench{t: t, fs: mem, kits: []Kit{k}}, mem: mem, kit: map[string]Kit{path("base"): k, path("a"): k}}
	for name, b := range map[string][]byte{"base": base, "a": top} {
		file, err := mem.Create(path(name), 0o600)
		w.must(err)
		_, err = file.WriteAt(b, 0)
		w.must(errors.Join(err, file.Close()))
	}
	return w
}

func contents(f *forest, name string) []byte {
	file, err := f.fs.Open(path(name), false)
	f.must(err)
	info, err := file.Stat()
	f.must(err)
	b := make([]byte, info.Size)
	_, err = file.ReadAt(b, 0)
	f.must(errors.Join(err, file.Close()))
	return b
}

// view reads an image if it can be read and is not too large.
func (f *forest) view(name string) ([]byte, bool) {
	n, err := f.store().Node(path(name), f.kits[0].Format.Name)
	if err != nil || n.Image.VirtualSize > maxFuzzDisk {
		return nil, false
	}
	b, err := f.read(name)
	return b, err == nil
}

func (f *forest) corruptions(name string) int64 {
	file, err := f.fs.Open(path(name), false)
	f.must(err)
	defer file.Close()
	if f.kits[0].Format.Name == "vhd" {
		r, err := vhd.Check(file, vhd.RepairNone)
		if err != nil {
			return 1 << 40
		}
		return r.Corruptions
	}
	r, err := qcow2.Check(file, qcow2.RepairNone)
	if err != nil {
		return 1 << 40
	}
	return r.Corruptions + r.CheckErrors
}

// untouched wants a refusal, and every byte as it was. What could not be foreseen
// (a compressed cluster that does not unpack) may stop a merge later on.
func (f *forest) untouched(failure error, base, top []byte) {
	f.t.Helper()
	if !bytes.Equal(contents(f, "a"), top) {
		f.t.Fatalf("%v, and the top has changed", failure)
	}
	if !foreseeable(failure) {
		return
	}
	if !bytes.Equal(contents(f, "base"), base) {
		f.t.Fatalf("%v, and the base has changed", failure)
	}
}

func foreseeable(err error) bool {
	var refusal *chain.RefusedError
	var unsupported *qcow2.UnsupportedError
	var kind *vfs.KindError
	var malformed *qcow2.FormatError
	var unsupportedVHD *vhd.UnsupportedError
	var malformedVHD *vhd.FormatError
	if errors.As(err, &malformed) {
		return malformed.Field != "compressed cluster" && malformed.Field != "cluster"
	}
	return errors.As(err, &refusal) || errors.As(err, &unsupported) || errors.As(err, &kind) ||
		errors.As(err, &unsupportedVHD) || errors.As(err, &malformedVHD)
}
