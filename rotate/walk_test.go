package rotate

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// On a storage of its own, a clone beside the directory of the base counts, as that of
// another host does.
func TestACloneAnywhereOnTheStorageIsAUser(t *testing.T) {
	for _, whole := range []bool{true, false} {
		h := hosttest.New(t)
		web := h.Add("web")
		one(9, 10, 11)(h, web)
		h.Picture("far/clone.qcow2", "web.qcow2")
		if !whole {
			clear(h.Pictures)
		}
		r := rotator(h, rule(2))
		r.Options = coalesce()
		r.Observer.Probes.StorageOf = func(dir string) string {
			if whole {
				return h.Dir
			}
			return dir
		}
		p := planOf(h, t, r, "web")
		merged := slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpMerge })
		if merged == whole {
			t.Errorf("whole storage %v: %v", whole, lines(h, t, p.Steps))
		}
		runAll(h, t, r)
		checkData(h, t)
	}
}

// Where an image of a domain is a symbolic link, what builds on it beside the file that
// the link leads to is a user.
func TestACloneBesideWhatALinkLeadsToIsAUser(t *testing.T) {
	for _, clone := range []bool{true, false} {
		h := hosttest.New(t)
		one(9, 10, 11)(h, h.Add("web"))
		hosttest.Must(os.Mkdir(h.Img("store/"), 0o755))
		hosttest.Must(os.Rename(h.Img("web.qcow2"), h.Img("store/real.qcow2")))
		hosttest.Must(os.Symlink(h.Img("store/real.qcow2"), h.Img("web.qcow2")))
		if clone {
			h.Picture("store/clone.qcow2", "store/real.qcow2")
		}
		r := rotator(h, rule(2))
		r.Options = coalesce()
		p := planOf(h, t, r, "web")
		if merged := slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpMerge && s.Base == h.Img("web.qcow2") }); merged == clone {
			t.Errorf("clone %v: %v", clone, lines(h, t, p.Steps))
		}
		runAll(h, t, r)
		checkData(h, t)
	}
}

// A storage that holds too much is not searched, which is told; the directories of layers
// are, and what is ignored does not count.
func TestAStorageWithTooMuchInItIsNotSearched(t *testing.T) {
	h := hosttest.New(t)
	one(9, 10, 11)(h, h.Add("web"))
	o := observer(h)
	o.Probes.StorageOf = func(string) string { return h.Dir }
	o.MostFiles = 1
	w, err := o.Observe(t.Context())
	hosttest.Must(err)
	if len(w.TooWide) == 0 || !slices.ContainsFunc(decide.Diagnose(w, nil, noPolicies, hosttest.Hour(12)), func(f decide.Finding) bool { return f.Code == decide.FindWide && f.Note }) {
		t.Errorf("%v", w.TooWide)
	}
}

// What is mounted below a directory of layers is another storage: if layers are there, too,
// it has its own turn.
func TestAStorageThatIsMountedBelowIsLookedAt(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	h.Disk(web, "vda", "img/web.qcow2")
	below := h.Img("img/mounted")
	hosttest.Must(os.Mkdir(below, 0o755))
	if err := syscall.Mount("tmpfs", below, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() { hosttest.Must(syscall.Unmount(below, 0)) })
	other := h.Add("other")
	h.Disk(other, "vda", "img/mounted/other.qcow2")
	h.Picture("img/mounted/clone.qcow2", "web.qcow2")
	w := see(h, t)
	l := w.Forest.Find(w.Key(h.Img("img/web.qcow2")))
	if l == nil || len(l.Children) != 1 {
		t.Errorf("the clone is not seen: %+v", l)
	}
	hosttest.Must(os.Remove(h.Img("img/mounted/clone.qcow2")))
	delete(h.Pictures, h.Img("img/mounted/clone.qcow2"))
}

// A directory of images that is a symbolic link gives each image two names on its storage.
// A merged layer is not a user of itself by the other.
func TestADirectoryOfImagesMayBeALink(t *testing.T) {
	for _, state := range []host.State{host.Running, host.ShutOff} {
		h := hosttest.New(t)
		hosttest.Must(os.Rename(filepath.Join(h.Dir, "img"), filepath.Join(h.Dir, "data")))
		hosttest.Must(os.Symlink(filepath.Join(h.Dir, "data"), filepath.Join(h.Dir, "img")))
		web := h.Add("web")
		one(9, 10, 11)(h, web)
		web.State = state
		r := rotator(h, rule(2))
		r.Options = coalesce()
		r.Observer.Probes.StorageOf = func(string) string { return h.Dir }
		if p := runAll(h, t, r)["web"]; p.Result != decide.ResultDone || len(p.Refused) > 0 {
			t.Errorf("%s: %s %s %+v", state, p.Result, p.Error, p.Refused)
		}
		checkData(h, t)
		checkDone(h, t)
	}
}
