package nfs_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/integration/nfs"
	"github.com/virt-rotate/virt-rotate/integration/nfs/inside"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// chain makes images of which each builds on the one before, with some bytes that say which it is, and
// has the filer put them on the storage, next to others. It returns their paths on the hosts.
func (s *share) chain(layers, others int) (paths []string) {
	s.Helper()
	dir, err := os.MkdirTemp(workDir, "")
	must(s, err)
	defer os.RemoveAll(dir)
	for n := range layers {
		name := fmt.Sprintf("layer%d.qcow2", n)
		s.image(dir, name, n)
		paths = append(paths, nfs.Share+"/img/"+name)
		s.put(filepath.Join(dir, name), paths[n])
	}
	if others > 0 {
		s.tool(dir, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", "other.qcow2", "1M")
		s.put(filepath.Join(dir, "other.qcow2"), nfs.Share+"/img/other0.qcow2")
		must(s, second(s.Filer.Run("sh", "-e", "-c", fmt.Sprintf(
			"cd /disk/export/%s/img\nfor n in $(seq %d); do cp other0.qcow2 other$n.qcow2; done", s.dir, others-1))))
	}
	return paths
}

// image makes one that builds on the layer below.
func (s *share) image(dir, name string, n int) {
	s.Helper()
	args := []string{"create", "-q", "-f", "qcow2"}
	if n > 0 {
		args = append(args, "-u", "-F", "qcow2", "-b", fmt.Sprintf("layer%d.qcow2", n-1))
	}
	s.tool(dir, "qemu-img", append(args, name, "16M")...)
	s.tool(dir, "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -q -P %d %dM 64k", n+1, n), name)
}

func (s *share) tool(dir, name string, args ...string) {
	s.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		s.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func (s *share) put(from, to string) {
	s.Helper()
	data, err := os.ReadFile(from)
	must(s, err)
	to = strings.Replace(to, nfs.Share, "/disk/export/"+s.dir, 1)
	must(s, s.Filer.Call("Machine.Put", inside.Content{Path: to, Data: data}, &inside.None{}))
}

func try(t testing.TB, h *nfs.Machine, args ...string) inside.Outcome {
	t.Helper()
	o, err := h.Try(args...)
	must(t, err)
	return o
}

// writers: a QEMU on one host keeps the engine out on the other, and the other way round.
func (s *share) writers() {
	path := s.chain(1, 0)[0]
	one, two := s.hosts[0], s.hosts[1]
	var qemu, engine int
	must(s, one.Call("Images.QEMUWriter", path, &qemu))
	use := s.use(two, path)
	s.Logf("%+v", use)
	if use.Tested.Write != (s.local == "") || use.Asked.Write != s.asked {
		s.Errorf("of a writer on the other host it is told %+v", use)
	}
	must(s, two.Call("Images.Open", path, &engine))
	err := two.Call("Images.Lock", engine, &inside.None{})
	want := "another process has it open"
	if s.local != "" {
		want = "is mounted with " + s.local
	}
	if err == nil || !strings.Contains(err.Error(), want) {
		s.Errorf("a lock beside a writer on the other host: %v", err)
	}
	must(s, one.Call("Images.Close", qemu, &inside.None{}))
	if s.local != "" {
		must(s, two.Call("Images.Close", engine, &inside.None{}))
		return
	}
	must(s, two.Call("Images.Lock", engine, &inside.None{}))
	if err := one.Call("Images.QEMUWriter", path, &qemu); err == nil {
		s.Error("a writer beside a merge on the other host")
	}
	must(s, two.Call("Images.Close", engine, &inside.None{}))
	if use := s.use(two, path); use.Tested.Read {
		s.Errorf("nobody has it open, and it is told %+v", use)
	}
}

// cloned: an image that the other host has made a moment ago is seen, though this host has just listed its directory.
func (s *share) cloned() {
	paths := s.chain(2, 0)
	look := s.looks(paths)
	for n := range 3 {
		time.Sleep(vfs.Racy + time.Second) // a directory that has just changed is not remembered
		before := look()
		clone := fmt.Sprintf("%s/img/clone%d.qcow2", nfs.Share, n)
		must(s, second(s.hosts[1].Run("virt-rotate", "image", "create", "-f", "qcow2", "-F", "qcow2", "-b", paths[0], clone)))
		if after := look(); after.Images != before.Images+1 {
			s.Errorf("after clone %d: %+v, before %+v", n, after, before)
		}
	}
	o := try(s, s.hosts[0], "virt-rotate", "image", "commit", paths[1])
	if o.Code != 4 || s.local == "" && !strings.Contains(o.Stderr, "clone") {
		s.Errorf("exit status %d\n%s", o.Code, o.Stderr+o.Stdout)
	}
}

// commits: image commit is refused beside a guest of another host; else the other reads what was merged.
func (s *share) commits() {
	paths := s.chain(3, 0)
	one, two := s.hosts[0], s.hosts[1]
	top := paths[2]
	must(s, second(two.Run("virt-rotate", "image", "convert", "-O", "raw", top, "/tmp/before.raw")))
	for _, used := range paths[1:] {
		var qemu int
		must(s, two.Call("Images.QEMUWriter", used, &qemu))
		o := try(s, one, "virt-rotate", "image", "commit", "--base", paths[0], top)
		s.Logf("%s", o.Stderr)
		if o.Code != 4 {
			s.Errorf("a merge of %s beside a writer on the other host: exit status %d\n%s", used, o.Code, o.Stderr+o.Stdout)
		}
		must(s, two.Call("Images.Close", qemu, &inside.None{}))
	}
	o := try(s, one, "virt-rotate", "image", "commit", "--base", paths[0], top)
	if s.local != "" {
		if o.Code != 4 || !strings.Contains(o.Stderr, "is mounted with "+s.local) {
			s.Errorf("exit status %d\n%s", o.Code, o.Stderr+o.Stdout)
		}
		return
	}
	if o.Code != 0 {
		s.Fatalf("exit status %d\n%s", o.Code, o.Stderr+o.Stdout)
	}
	must(s, second(two.Run("virt-rotate", "image", "convert", "-O", "raw", paths[0], "/tmp/after.raw")))
	must(s, second(two.Run("cmp", "/tmp/before.raw", "/tmp/after.raw")))
	must(s, second(two.Run("virt-rotate", "image", "check", paths[0])))
	must(s, second(two.Run("rm", "/tmp/before.raw", "/tmp/after.raw")))
	if left, err := two.Run("ls", "-A", nfs.Share+"/img"); err != nil || left != "layer0.qcow2\n" {
		s.Errorf("%v: %q", err, left)
	}
}

func second(_ string, err error) error { return err }

// deletedBytes is more than a client reads ahead.
const deletedBytes = 8 << 20

// deleted: who reads a file that another host deletes gets its bytes, or an error; never others.
func (s *share) deleted() {
	one, two := s.hosts[0], s.hosts[1]
	path := nfs.Share + "/gone"
	must(s, second(two.Run("sh", "-c", fmt.Sprintf("tr '\\0' z < /dev/zero | head -c %d > %s", deletedBytes, path))))
	var number int
	must(s, one.Call("Images.Open", path, &number))
	defer func() { must(s, one.Call("Images.Close", number, &inside.None{})) }()
	must(s, second(two.Run("rm", path)))
	said := map[string]int{}
	for off := int64(0); off < deletedBytes; off += 1 << 20 {
		var data []byte
		err := one.Call("Images.ReadAt", inside.Part{Number: number, Off: off, Size: 4096}, &data)
		switch {
		case err != nil:
			said[err.Error()]++
		case string(data) != strings.Repeat("z", 4096):
			s.Errorf("at %d it reads %d other bytes", off, len(data))
		default:
			said["its bytes"]++
		}
	}
	s.Logf("%v", said)
	if err := one.Call("Images.Lock", number, &inside.None{}); err == nil {
		s.Error("a file that is gone can be locked for a merge")
	} else {
		s.Logf("a lock: %v", err)
	}
}

// changed: a new time of change is seen late without a lock, and at once under one.
func (s *share) changed() {
	one, two := s.hosts[0], s.hosts[1]
	path := nfs.Share + "/changed"
	must(s, two.Call("Machine.Put", inside.Content{Path: path, Data: []byte("a")}, &inside.None{}))
	var before, seen, under time.Time
	must(s, one.Call("Images.Stat", path, &before))
	must(s, second(two.Run("touch", "-d", "2020-01-01 00:00:00", path)))
	must(s, one.Call("Images.Stat", path, &seen))
	must(s, one.Call("Images.Under", path, &under))
	s.Logf("without a lock at once: %v; under one: %v", seen.Year() == 2020, under.Year() == 2020)
	if under.Year() != 2020 && s.local == "" {
		s.Errorf("under a lock %v", under)
	}
	must(s, second(two.Run("touch", "-d", "2021-01-01 00:00:00", path)))
	start := time.Now()
	for seen.Year() != 2021 && time.Since(start) < 2*time.Minute {
		time.Sleep(200 * time.Millisecond)
		must(s, one.Call("Images.Stat", path, &seen))
	}
	s.Logf("the next one is seen by stat alone after %.1f s", time.Since(start).Seconds())
}
