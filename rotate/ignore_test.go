package rotate

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// Whether the base is merged into, with files that somebody has said to build on nothing.
func TestIgnoredImagesEndDoubtsAndNothingElse(t *testing.T) {
	unreadable := func(path string) { hosttest.Must(os.WriteFile(path, []byte("?"), 0o600)) }
	cases := []struct {
		name   string
		build  func(h *hosttest.Host)
		ignore []string
		merges bool
	}{
		{"an unreadable image beside the base", func(h *hosttest.Host) { unreadable(h.Img("broken")) }, nil, false},
		{"the same, ignored", func(h *hosttest.Host) { unreadable(h.Img("broken")) }, []string{"broken"}, true},
		{"another one is ignored", func(h *hosttest.Host) { unreadable(h.Img("broken")) }, []string{"broken2", "img/brok"}, false},
		{"ignored by an untidy path", func(h *hosttest.Host) { unreadable(h.Img("broken")) }, []string{"img/../img//broken"}, true},
		{"ignored by another name", func(h *hosttest.Host) {
			unreadable(h.Img("broken"))
			hosttest.Must(os.Symlink(h.Img("broken"), h.Img("far/link")))
		}, []string{"far/link"}, true},
		{"two, one of them ignored", func(h *hosttest.Host) {
			unreadable(h.Img("broken"))
			unreadable(h.Img("too"))
		}, []string{"broken"}, false},
		{"its backing name means no file", func(h *hosttest.Host) {
			h.Store(h.Img("odd"), hosttest.Image{Format: "qcow2", Backing: "json:{}", BackingFormat: "qcow2"})
		}, []string{"odd"}, true},
		{"ignored, but readable: it builds on the base", func(h *hosttest.Host) { h.Picture("clone.qcow2", "web.qcow2") }, []string{"clone.qcow2"}, false},
		{"ignored, but it is what a readable image builds on, which is on the base", func(h *hosttest.Host) {
			h.Picture("clone.qcow2", "web.qcow2")
			h.Picture("far/top.qcow2", "clone.qcow2")
			h.Disk(h.Add("other"), "vda", "far/o.qcow2")
		}, []string{"clone.qcow2", "far/top.qcow2"}, false},
		{"ignored, but the disk of a domain that is off", func(h *hosttest.Host) {
			other := h.Add("other")
			h.Disk(other, "vda", "web.qcow2", "clone.qcow2")
			other.State, other.Cut = host.ShutOff, true
			unreadable(h.Img("clone.qcow2"))
		}, []string{"clone.qcow2"}, false},
		{"ignored, but a domain has it after a restart", func(h *hosttest.Host) {
			unreadable(h.Img("clone.qcow2"))
			h.Add("other").Elsewhere = []string{h.Img("clone.qcow2")}
		}, []string{"clone.qcow2"}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := hosttest.New(t)
			one(9, 10, 11)(h, h.Add("web"))
			c.build(h)
			r := rotator(h, rule(2))
			r.Options = coalesce()
			for _, name := range c.ignore {
				if !strings.Contains(name, "..") {
					name = h.Img(name)
				} else {
					name = h.Dir + "/" + name
				}
				r.Observer.Ignore = append(r.Observer.Ignore, name)
			}
			before := pinned(h)
			p := runAll(h, t, r)["web"]
			if c.merges {
				checkData(h, t)
			}
			if merged := slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpMerge }); merged != c.merges || (pinned(h) != before) != c.merges {
				t.Errorf("merged: %t, base written: %t, want %t", merged, pinned(h) != before, c.merges)
			}
		})
	}
}
