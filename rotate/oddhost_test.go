package rotate

import (
	"slices"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// A directory that a domain names is no image, and nothing is looked for beside it.
func TestADirectoryThatADomainNamesIsNoImage(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(11)(h, web)
	web.Elsewhere = []string{"/", h.Dir, "/dev/null"}
	w := see(h, t)
	for _, dir := range []string{"/", "/dev", "/dev/shm", "/tmp"} {
		if _, looked := w.Dirs[dir]; looked {
			t.Errorf("images are looked for in %s", dir)
		}
	}
}

// A layer that another domain names goes under no circumstances: that domain could not be
// started, though its data is in the layer above.
func TestALayerThatAnotherDomainNamesStays(t *testing.T) {
	for _, state := range []host.State{host.Running, host.ShutOff} {
		for _, top := range []string{"other.qcow2", ""} {
			h := hosttest.New(t)
			web := h.Add("web")
			one(9, 10, 11)(h, web)
			other := h.Add("other")
			other.State = state
			images := []string{"web.qcow2", "web." + hosttest.Name(9) + ".qcow2", "web." + hosttest.Name(10) + ".qcow2", "web." + hosttest.Name(11) + ".qcow2", top}
			if top == "" {
				images = images[:4]
			}
			h.Disk(other, "vda", images...)
			r := merging(h, rule(1))
			for _, p := range []decide.Plan{planOf(h, t, r, "web"), runAll(h, t, r)["web"]} {
				if slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpMerge || s.Op == decide.OpDeleteFile }) {
					t.Errorf("%s %q: %v", state, top, lines(h, t, p.Steps))
				}
			}
			checkData(h, t)
		}
	}
}

// Where libvirt and a header disagree about what a layer builds on, neither may change.
func TestWhatAHeaderNamesBesideTheChainIsKept(t *testing.T) {
	h := hosttest.New(t)
	one(9, 10, 11)(h, h.Add("web"))
	other := h.Add("other")
	h.Disk(other, "vda", "else.qcow2", "other.qcow2")
	h.Change(h.Img("other.qcow2"), func(i *hosttest.Image) { i.Backing = h.Img("web." + hosttest.Name(9) + ".qcow2") })
	r := merging(h, rule(2))
	if p := planOf(h, t, r, "web"); slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpMerge || s.Op == decide.OpDeleteFile }) {
		t.Errorf("%v", lines(h, t, p.Steps))
	}
}
