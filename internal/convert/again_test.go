package convert

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/formats"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/vhdbridge/srtest"
)

const diskSize = 8 << 20

// A job converts a base and a leaf of a repository, again and again.
type job struct {
	*testing.T
	src, dest string
	sums      [2]string // of base and leaf
}

var errCrash = errors.New("the power is gone")

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newJob has what the base and the leaf have, each of one byte.
func newJob(t *testing.T, base, leaf byte) *job {
	t.Helper()
	j := &job{T: t, src: t.TempDir(), dest: t.TempDir()}
	j.source(base, leaf)
	return j
}

// source makes the repository anew.
func (j *job) source(base, leaf byte) {
	j.Helper()
	for _, name := range []string{"base", "leaf"} {
		must(j.T, os.RemoveAll(filepath.Join(j.src, name+".vhd")))
	}
	srtest.Write(j.T, j.src, srtest.Node{Name: "base", Size: diskSize, Own: bytes.Repeat([]byte{base}, 3<<20)})
	srtest.Write(j.T, j.src, srtest.Node{Name: "leaf", Parent: "base", Size: diskSize, Own: bytes.Repeat([]byte{leaf}, 1<<20)})
	j.sums = [2]string{"base" + string(base), "leaf" + string(base) + string(leaf)}
}

func (j *job) conversions(s *chain.Store) (all []*Conversion) {
	j.Helper()
	format, err := formats.Named("qcow2")
	must(j.T, err)
	for i, name := range []string{"base", "leaf"} {
		nodes, err := s.Chain(filepath.Join(j.src, name+".vhd"), "vhd")
		must(j.T, err)
		c := &Conversion{Path: filepath.Join(j.dest, name+".qcow2"), Format: format, Maker: format.New(), Nodes: nodes, Own: true}
		c.New.Size = diskSize
		if i > 0 {
			c.On, c.New.Backing, c.New.BackingFormat = all[0], "base.qcow2", "qcow2"
		}
		all = append(all, c)
	}
	return all
}

// run converts, and loses power at the n-th place, if it comes there.
func (j *job) run(n int) (crashed bool, err error) {
	j.Helper()
	s := formats.Store(vfs.OS(), nil)
	record, err := ReadRecord(vfs.OS(), j.dest)
	must(j.T, err)
	all := j.conversions(s)
	a := &Again{Store: s, Record: record, Sources: map[*Conversion]Source{}, Whole: true}
	for i, c := range all {
		a.Sources[c] = Source{From: c.Source().Path, Sum: j.sums[i]}
	}
	if err := a.Plan(all); err != nil {
		return false, err
	}
	var rest []*Conversion
	for _, c := range all {
		if !a.Kept(c) {
			rest = append(rest, c)
		}
	}
	at := 0
	ctx, cancel := context.WithCancel(j.Context())
	defer cancel()
	place := func() {
		if at++; at == n {
			panic(errCrash)
		}
	}
	midst := func(int64) { // by whatever goroutine
		if at++; at == n {
			cancel()
		}
	}
	defer func() {
		if r := recover(); r != nil {
			crashed, err = true, nil
			if r != any(errCrash) {
				panic(r)
			}
		}
	}()
	return false, j.carryOut(ctx, s, a, rest, place, midst)
}

func (j *job) carryOut(ctx context.Context, s *chain.Store, a *Again, rest []*Conversion, place func(), midst func(int64)) error {
	place()
	if err := a.Begin(rest); err != nil {
		return err
	}
	place()
	v := &Converter{Store: s, Progress: func(string, int64) (func(int64), func()) { return midst, func() {} }}
	v.Naming = func(sound []*Conversion) error {
		place()
		if err := a.Naming(rest, sound); err != nil {
			return err
		}
		for _, c := range sound[:max(0, len(sound)-1)] { // the last gets its name from the Converter
			place()
			must(j.T, c.name())
			c.Old = &Old{} // it has it
		}
		place()
		return nil
	}
	if err := convertNamed(ctx, v, rest); err != nil {
		return err
	}
	place()
	return a.Done(rest)
}

// convertNamed is ConvertSound, but for those that have their names already.
func convertNamed(ctx context.Context, v *Converter, rest []*Conversion) error {
	naming := v.Naming
	v.Naming = nil
	done, end := v.Progress("", 0)
	err := each(ctx, rest, func(c *Conversion) error { return v.convertSound(ctx, c, done) })
	end()
	if ctx.Err() != nil {
		panic(errCrash)
	}
	if err != nil {
		return err
	}
	for _, c := range rest {
		if c.Err != nil {
			return c.Err
		}
	}
	if err := naming(rest); err != nil {
		return err
	}
	for _, c := range rest {
		if c.Old == nil {
			if err := c.name(); err != nil {
				return err
			}
		}
	}
	return nil
}

// reads is the first byte, and the last of the first 3 MiB, of an image; nil if there is none
// of that name.
func (j *job) reads(name string) []byte {
	j.Helper()
	path := filepath.Join(j.dest, name+".qcow2")
	if _, err := os.Stat(path); err != nil {
		return nil
	}
	s := formats.Store(vfs.OS(), nil)
	nodes, err := s.Chain(path, "qcow2")
	if err != nil { // its base has no name: nobody can open it
		return nil
	}
	view, err := s.View(nodes)
	must(j.T, err)
	defer view.Close()
	b := make([]byte, 3<<20)
	_, err = view.ReadAt(b, 0)
	must(j.T, err)
	if i := bytes.IndexFunc(b[:1<<20], func(r rune) bool { return byte(r) != b[0] }); i >= 0 {
		return []byte("torn")
	}
	return []byte{b[0], b[3<<20-1]}
}

// Wherever the power is lost: what has its name reads as before or as it is to be, and the
// same command brings all to what is to be.
func TestConversionsThatAreBrokenOffGoOn(t *testing.T) {
	for name, next := range map[string][2]byte{"the leaf has changed": {'a', 'c'}, "the base, too": {'d', 'c'}, "the base only": {'d', 'b'}} {
		points := 0
		for n := 1; ; n++ {
			j := newJob(t, 'a', 'b')
			if _, err := j.run(0); err != nil {
				t.Fatal(err)
			}
			j.source(next[0], next[1])
			crashed, err := j.run(n)
			if err != nil {
				t.Fatalf("%s, %d: %v", name, n, err)
			}
			for disk, may := range map[string][2]string{"base": {"aa", string([]byte{next[0], next[0]})}, "leaf": {"ba", string([]byte{next[1], next[0]})}} {
				if have := string(j.reads(disk)); have != "" && have != may[0] && have != may[1] {
					t.Errorf("%s, point %d: %s reads %q", name, n, disk, have)
				}
			}
			if !crashed {
				break
			}
			points++
			if _, err := j.run(0); err != nil {
				t.Fatalf("%s, after point %d: %v", name, n, err)
			}
			if have := string(j.reads("leaf")); have != string([]byte{next[1], next[0]}) {
				t.Errorf("%s, after point %d: the leaf reads %q", name, n, have)
			}
			left, err := filepath.Glob(filepath.Join(j.dest, "*.unfinished"))
			if err != nil || len(left) > 0 {
				t.Errorf("%s, after point %d: %q", name, n, left)
			}
		}
		if points < 6 {
			t.Errorf("%s: %d points", name, points)
		}
	}
}

// A guest that was started on an image between the crash and the next run is not written over.
func TestWhatAGuestHasRunOnAfterACrashIsRefused(t *testing.T) {
	j := newJob(t, 'a', 'b')
	_, err := j.run(0)
	must(t, err)
	j.source('d', 'c')
	for n := 1; ; n++ {
		crashed, err := j.run(n)
		must(t, err)
		if !crashed {
			break
		}
		path := filepath.Join(j.dest, "leaf.qcow2")
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt([]byte{1}, info.Size())
		must(t, errors.Join(err, f.Close()))
		if _, err := j.run(0); err == nil || !strings.Contains(err.Error(), "it has changed since it was made") {
			t.Errorf("after point %d: %v", n, err)
		}
		must(t, os.Truncate(path, info.Size()))
		must(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
	}
}

func TestARecordThatIsDamagedIsRefused(t *testing.T) {
	for _, text := range []string{"{", `{"version":7}`, `{"version":1,"images":{"../x":{}}}`, `{"version":1,"images":{"x":null}}`, `{"version":1,"images":{"x":{"backing":"/etc/passwd"}}}`} {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, RecordName), []byte(text), 0o600))
		if _, err := ReadRecord(vfs.OS(), dir); err == nil || !strings.Contains(err.Error(), "another directory") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
