package rotate

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// aboveShared is what happens to web above a base that somebody else needs:
// the oldest goes without a merge, its layer stays.
const aboveShared = `
	drop-metadata S9
	redefine S10`

func TestNothingIsMergedIntoASharedBase(t *testing.T) {
	shapes := []shape{
		{name: "a running domain", build: func(h *hosttest.Host, web *hosttest.Domain) {
			one(9, 10, 11)(h, web)
			h.Disk(h.Add("other"), "vda", "web.qcow2", "clone.qcow2")
		}, steps: aboveShared, reason: "web.S9 stays a layer of vda: web is used by clone"},
		{name: "a domain that is shut off", build: func(h *hosttest.Host, web *hosttest.Domain) {
			one(9, 10, 11)(h, web)
			other := h.Add("other")
			h.Disk(other, "vda", "web.qcow2", "clone.qcow2")
			other.State = host.ShutOff
		}, steps: aboveShared, reason: "clone"},
		{name: "a domain that is shut off, elsewhere, its XML lists the top only", build: func(h *hosttest.Host, web *hosttest.Domain) {
			one(9, 10, 11)(h, web)
			other := h.Add("other")
			h.Disk(other, "vda", "web.qcow2", "far/middle.qcow2", "far/clone.qcow2")
			other.State, other.Cut = host.ShutOff, true
		}, steps: aboveShared, reason: "far/middle"},
		{name: "a domain that is shut off, its image does not name the backing format", build: func(h *hosttest.Host, web *hosttest.Domain) {
			one(9, 10, 11)(h, web)
			other := h.Add("other")
			h.Disk(other, "vda", "web.qcow2", "far/clone.qcow2")
			h.Change(h.Img("far/clone.qcow2"), func(i *hosttest.Image) { i.BackingFormat = "" })
			other.State, other.Cut = host.ShutOff, true
		}, steps: aboveShared, reason: "far/clone"},
		{name: "a domain that has the disk only after a restart", build: func(h *hosttest.Host, web *hosttest.Domain) {
			one(9, 10, 11)(h, web)
			h.Create("far/clone.qcow2", web.Disks[0].Chain[:1])
			other := h.Add("other")
			h.Disk(other, "vda", "other.qcow2")
			other.Elsewhere = []string{h.Img("far/clone.qcow2")}
		}, steps: aboveShared, reason: "far/clone"},
		{name: "a domain uses the base itself", build: func(h *hosttest.Host, web *hosttest.Domain) {
			one(9, 10, 11)(h, web)
			h.Disk(h.Add("other"), "vda", "web.qcow2")
			h.Find("other").Disks[0].ReadOnly = true
		}, steps: aboveShared, reason: "web is kept for disk other/vda"},
		{name: "a saved state names the base", build: func(h *hosttest.Host, web *hosttest.Domain) {
			one(9, 10, 11)(h, web)
			h.Add("other").Elsewhere = []string{h.Img("web.qcow2")}
		}, steps: aboveShared, reason: "web is kept for configuration of other"},
		{name: "an image of nobody beside it", build: func(h *hosttest.Host, web *hosttest.Domain) {
			one(9, 10, 11)(h, web)
			h.Picture("template.qcow2", "web.qcow2")
		}, steps: aboveShared, reason: "template"},
		{name: "an image of nobody in another domain's directory", build: func(h *hosttest.Host, web *hosttest.Domain) {
			one(9, 10, 11)(h, web)
			h.Disk(h.Add("other"), "vda", "far/other.qcow2")
			h.Picture("far/template.qcow2", "web.qcow2")
		}, steps: aboveShared, reason: "far/template"},
		{name: "the base has another name there", build: func(h *hosttest.Host, web *hosttest.Domain) {
			one(9, 10, 11)(h, web)
			hosttest.Must(os.Link(h.Img("web.qcow2"), h.Img("far/golden.qcow2")))
			h.Disk(h.Add("other"), "vda", "far/golden.qcow2", "far/clone.qcow2")
		}, steps: aboveShared, reason: "far/clone"},
		{name: "the base is reached through a symbolic link", build: func(h *hosttest.Host, web *hosttest.Domain) {
			one(9, 10, 11)(h, web)
			hosttest.Must(os.Symlink(h.Img("img"), h.Img("far/link")))
			hosttest.Must(os.Symlink(h.Img("web.qcow2"), h.Img("far/golden.qcow2")))
			h.Picture("far/clone.qcow2", "far/golden.qcow2")
			h.Disk(h.Add("other"), "vda", "far/other.qcow2")
		}, steps: aboveShared, reason: "far/clone"},
		{name: "two disks of one domain", build: func(h *hosttest.Host, web *hosttest.Domain) {
			h.Disk(web, "vda", "web.qcow2")
			h.Disk(web, "vdb", "web.qcow2")
			for _, n := range []int{9, 10, 11} {
				spec := host.SnapshotSpec{Name: hosttest.Name(n), Description: host.Mark{Policy: "p"}.String(), Overlays: map[string]string{
					"vda": h.Img("a." + hosttest.Name(n) + ".qcow2"), "vdb": h.Img("b." + hosttest.Name(n) + ".qcow2")}}
				h.Grow(web, spec, hosttest.Hour(n))
			}
		}, steps: aboveShared, reason: "web is used by"},
	}
	for _, s := range shapes {
		s.options = coalesce()
		t.Run(s.name, func(t *testing.T) {
			h := s.host(t)
			before := pinned(h)
			r := rotator(h, s.rule)
			r.Options = s.options
			p := planOf(h, t, r, "web")
			p.Steps = briefReasons(h, p.Steps)
			wantSteps(h, t, p, s.steps)
			s.checkTold(t, &p)
			ran := runAll(h, t, withOptions(h, r))["web"]
			wantSteps(h, t, ran, s.steps)
			checkData(h, t)
			if len(h.Find("web").Disks[0].Chain) != 4 {
				t.Errorf("chain: %v", h.Short(host.Paths(h.Find("web").Disks[0].Chain)))
			}
			if pinned(h) != before {
				t.Error("the shared base was written")
			}
		})
	}
}

func pinned(h *hosttest.Host) string {
	data, err := os.ReadFile(h.Img("web.qcow2"))
	hosttest.Must(err)
	return string(data)
}

func briefReasons(h *hosttest.Host, steps []decide.Step) []decide.Step {
	out := []decide.Step{}
	for _, s := range steps {
		s.Reason = h.Brief(s.Reason)
		out = append(out, s)
	}
	return out
}

// The layer that stayed becomes the base of the domain's own.
func TestTheNextDropMergesIntoTheFirstPrivateLayer(t *testing.T) {
	s := shape{
		build: func(h *hosttest.Host, web *hosttest.Domain) {
			one(8, 9, 10, 11)(h, web)
			h.Disk(h.Add("other"), "vda", "web.qcow2", "clone.qcow2")
		}, options: coalesce(), steps: `
			drop-metadata S8
			drop-metadata S9
			commit vda: web.S9 into web.S8
			redefine S10
			redefine S11
			delete web.S9`,
	}
	s.check(t)
}

func TestABaseIsMergedIntoAgainOnceItsOtherUserIsGone(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(9, 10, 11)(h, web)
	h.Picture("template.qcow2", "web.qcow2")
	r := rotator(h, rule(2))
	r.Options = coalesce()
	runAll(h, t, r)
	hosttest.Must(os.Remove(h.Img("template.qcow2")))
	clear(h.Pictures)
	wantSteps(h, t, runAll(h, t, r)["web"], `
		commit vda: web.S9 into web
		redefine S10
		redefine S11
		delete web.S9`)
	checkDone(h, t)
}

// What cannot be read keeps its directory, and those that its neighbours build on, from
// being merged: the snapshot stays, and that is told with the remedy. Other directories
// are no matter of its.
func TestAnUnreadableImageBlocksMergesIntoWhatItMayBuildOn(t *testing.T) {
	broken := func(h *hosttest.Host, name string) { hosttest.Must(os.WriteFile(h.Img(name), []byte("?"), 0o600)) }
	cases := []struct {
		name  string
		build func(h *hosttest.Host)
		path  string // of the refusal; "": merges go on
		named bool   // by a domain: it cannot be ignored
	}{
		{"beside the base", func(h *hosttest.Host) { broken(h, "broken.qcow2") }, "broken", false},
		{"in a directory below", func(h *hosttest.Host) {
			hosttest.Must(os.MkdirAll(h.Img("img/a/b"), 0o755))
			broken(h, "img/a/b/broken.qcow2")
		}, "a/b/broken", false},
		{"in another directory", func(h *hosttest.Host) {
			other := h.Add("other")
			h.Disk(other, "vda", "far/clone.qcow2")
			other.State, other.Cut = host.ShutOff, true
			broken(h, "far/clone.qcow2")
		}, "", false},
		{"in another directory, beside a clone", func(h *hosttest.Host) {
			other := h.Add("other")
			h.Disk(other, "vda", "far/else.qcow2")
			other.State, other.Cut = host.ShutOff, true
			h.Picture("img/second.qcow2", "golden.qcow2")
			h.Picture("far/second.qcow2", "golden.qcow2")
			broken(h, "far/else.qcow2")
		}, "far/else", true},
		{"a disk that another domain has only after a restart", func(h *hosttest.Host) {
			broken(h, "img/clone.qcow2")
			h.Add("other").Elsewhere = []string{h.Img("img/clone.qcow2")}
		}, "clone", true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := hosttest.New(t)
			h.Create("golden.qcow2", nil)
			web := h.Add("web")
			one(9, 10, 11)(h, web)
			c.build(h)
			before := pinned(h)
			r := rotator(h, rule(2))
			r.Options = coalesce()
			p := planOf(h, t, r, "web")
			if c.path == "" {
				if len(p.Refused) > 0 || len(p.Steps) != 5 {
					t.Errorf("%+v", p)
				}
				return
			}
			if len(p.Steps) > 0 || len(p.Refused) != 1 || p.Refused[0].Code != host.CodeDoubt || h.Brief(p.Refused[0].Path) != c.path ||
				c.named == strings.Contains(p.Refused[0].Detail, "[storage] ignore") {
				t.Errorf("%+v", p)
			}
			runAll(h, t, withOptions(h, r))
			if pinned(h) != before || len(web.Snapshots) != 3 {
				t.Errorf("the base was written, or a snapshot dropped: %v", snapshotNames(web))
			}
			r.Observer.Ignore = []string{p.Refused[0].Path}
			if p := planOf(h, t, r, "web"); (len(p.Refused) == 0 && len(p.Steps) == 5) == c.named {
				t.Errorf("ignored: %+v", p)
			}
		})
	}
}

// Where retention drops snapshots whose layers cannot be merged, that is told before the
// chain is so long that there are no snapshots any more.
func TestAChainThatGetsLongForACloneIsToldInTime(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one()(h, web)
	r := rotator(h, with(rule(1), func(r *policy.Rule) { r.MaxChain = 8 }))
	warned := 0
	for n := range 12 {
		h.Now = hosttest.Hour(n)
		p := runAll(h, t, r)["web"]
		h.Write(web, "vda", n)
		h.Picture(fmt.Sprintf("far/clone%d.qcow2", n), filepath.Base(web.Disks[0].Active().Path)) // each layer gets a clone
		r.Observer.Scan = []string{h.Img("far/")}
		if len(p.Warnings) > 0 && strings.Contains(p.Warnings[0], "max_chain = 8") && strings.Contains(p.Warnings[0], "is used by") {
			warned++
		}
		if len(p.Refused) > 0 {
			if p.Refused[0].Code != host.CodeChainLong || warned < 2 {
				t.Fatalf("%+v after %d warnings", p.Refused, warned)
			}
			return
		}
	}
	t.Error("the chain never became too long")
}

// A state that somebody saved to a file in a directory that is scanned names images, too.
func TestASavedStateInAScannedDirectoryKeepsItsImages(t *testing.T) {
	for _, as := range []string{"files", "volumes"} {
		h, web := off(t, 9, 10, 11)
		web.Cut = false
		source := "<source file='" + h.Img("web.qcow2") + "'/>"
		if as == "volumes" {
			source = `<source index='1' pool="default" volume="web.qcow2"/>`
			web.Volumes = map[string]host.Volume{h.Img("web.qcow2"): {Pool: "default", Name: "web.qcow2"}}
		}
		r := besideSaved(h, fmt.Sprintf("<domain><devices><disk><source file='%s'/><backingStore>%s</backingStore></disk></devices></domain>", web.Disks[0].Active().Path, source))
		before := pinned(h)
		p := runAll(h, t, r)["web"]
		if pinned(h) != before || slices.ContainsFunc(p.Steps, func(s decide.Step) bool {
			return s.Op == decide.OpSnapshot || s.Op == decide.OpMerge && s.Base == h.Img("web.qcow2")
		}) {
			t.Errorf("%s: %+v", as, p)
		}
		if len(p.Refused) != 1 || p.Refused[0].Code != host.CodeShared || !strings.Contains(p.Refused[0].Detail, "web.save") {
			t.Errorf("%s: %+v", as, p.Refused)
		}
	}
}

// A volume of which no domain tells could be any layer.
func TestASavedStateOfAVolumeThatNobodyKnowsIsADoubt(t *testing.T) {
	h, _ := off(t, 9, 10, 11)
	r := besideSaved(h, "<domain><devices><disk><source pool='gone' volume='a&amp;b'/></disk></devices></domain>")
	p := runAll(h, t, r)["web"]
	if len(p.Refused) != 1 || p.Refused[0].Code != host.CodeDoubt || !strings.Contains(p.Refused[0].Detail, "gone/a&b") {
		t.Errorf("%+v", p)
	}
}

// besideSaved has the state of a guest in a directory that is scanned.
func besideSaved(h *hosttest.Host, xml string) *Rotator {
	head := make([]byte, 92) // libvirt's src/qemu/qemu_saveimage.h
	copy(head, "LibvirtQemudSave")
	binary.NativeEndian.PutUint32(head[20:], uint32(len(xml)))
	hosttest.Must(os.WriteFile(h.Img("far/web.save"), append(head, xml...), 0o600))
	r := rotator(h, rule(2))
	r.Observer.Inspect = func(path, format string) (chain.Image, error) {
		if format == "" && strings.HasSuffix(path, ".save") {
			return chain.Image{}, nil
		}
		return h.Inspect(path, format)
	}
	r.Observer.Scan = []string{filepath.Join(h.Dir, "far")}
	return r
}

// A clone is seen wherever below the directory of the base it lies, and is not passed over
// for being ignored: what it builds on is no doubt but known.
func TestACloneInADirectoryBelowIsAUser(t *testing.T) {
	for _, ignored := range []bool{false, true} {
		h := hosttest.New(t)
		web := h.Add("web")
		one(9, 10, 11)(h, web)
		hosttest.Must(os.MkdirAll(h.Img("img/host2/deep"), 0o755))
		h.Picture("img/host2/deep/clone.qcow2", "web.qcow2")
		r := rotator(h, rule(2))
		if ignored {
			r.Observer.Ignore = []string{h.Img("img/host2/deep/clone.qcow2")}
		}
		r.Options = coalesce()
		wantSteps(h, t, planOf(h, t, r, "web"), aboveShared)
		runAll(h, t, r)
		checkData(h, t)
	}
}

// A backing name that is not here may be that of a layer on another host, which has the
// storage mounted elsewhere.
func TestABackingNameThatIsNotHereMayMeanALayer(t *testing.T) {
	for name, want := range map[string]int{"web": 0, "web." + hosttest.Name(9): 0, "web." + hosttest.Name(11): 5, "other": 5} {
		h := hosttest.New(t)
		web := h.Add("web")
		one(9, 10, 11)(h, web)
		hosttest.Must(os.MkdirAll(h.Img("img/host2"), 0o755))
		h.Store(h.Img("img/host2/clone.qcow2"), hosttest.Image{Format: "qcow2", Backing: "/srv/elsewhere/" + name + ".qcow2", BackingFormat: "qcow2"})
		r := rotator(h, rule(2))
		r.Options = coalesce()
		p := planOf(h, t, r, "web")
		if len(p.Steps) != want || (want == 0) != (len(p.Refused) == 1 && p.Refused[0].Code == host.CodeDoubt && strings.Contains(p.Refused[0].Detail, "which is not here")) {
			t.Errorf("%s: %v, refused %+v", h.Brief(name), lines(h, t, p.Steps), p.Refused)
		}
	}
}

// An image that is not there cannot build on anything.
func TestALostImageOfAnotherDomainBlocksNothing(t *testing.T) {
	s := shape{build: func(h *hosttest.Host, web *hosttest.Domain) {
		one(9, 10, 11)(h, web)
		other := h.Add("other")
		h.Disk(other, "vda", "far/other.qcow2")
		other.State = host.ShutOff
	}, options: coalesce()}
	h := s.host(t)
	hosttest.Must(os.Remove(h.Img("far/other.qcow2")))
	r := rotator(h, s.rule)
	r.Options = s.options
	if p := planOf(h, t, r, "web"); len(p.Steps) != 5 {
		t.Errorf("steps: %v", lines(h, t, p.Steps))
	}
}

func TestForeignSnapshotsKeepTheirLayers(t *testing.T) {
	shapes := []shape{
		{name: "below ours", build: func(h *hosttest.Host, web *hosttest.Domain) {
			h.Disk(web, "vda", "web.qcow2")
			h.Foreign(web, "mine", 5)
			h.Take(web, []int{9, 10, 11})
		}, steps: `
			drop-metadata S9
			commit vda: web.mine.S9 into web.mine
			redefine S10
			redefine S11
			delete web.mine.S9`},
		{name: "between ours", build: func(h *hosttest.Host, web *hosttest.Domain) {
			h.Disk(web, "vda", "web.qcow2")
			h.Take(web, []int{7, 8})
			h.Foreign(web, "mine", 9)
			h.Take(web, []int{10, 11})
		}, steps: `
			drop-metadata S7
			drop-metadata S8
			commit vda: web.S7 into web
			redefine mine
			redefine S10
			redefine S11
			delete web.S7`},
		{name: "above ours", build: func(h *hosttest.Host, web *hosttest.Domain) {
			h.Disk(web, "vda", "web.qcow2")
			h.Take(web, []int{9})
			h.Foreign(web, "mine", 10)
		}, rule: with(rule(0), func(r *policy.Rule) { r.Keep = policy.Keep{} }), steps: `
			drop-metadata S9
			redefine mine`},
		{name: "only foreign ones", build: func(h *hosttest.Host, web *hosttest.Domain) {
			h.Disk(web, "vda", "web.qcow2")
			h.Foreign(web, "mine", 9)
			h.Foreign(web, "yours", 10)
		}},
		{name: "an overlay of a snapshot that is gone, not named as ours are", build: func(h *hosttest.Host, web *hosttest.Domain) {
			h.Disk(web, "vda", "web.qcow2")
			h.Foreign(web, "mine", 8)
			h.Take(web, []int{9, 10, 11})
			web.Snapshots = web.Snapshots[1:]
			web.Snapshots[0].Parent = ""
		}, steps: `
			drop-metadata S9
			commit vda: web.mine.S9 into web.mine
			redefine S10
			redefine S11
			delete web.mine.S9`},
		{name: "an overlay of ours whose metadata is gone", build: func(h *hosttest.Host, web *hosttest.Domain) {
			one(9, 10, 11)(h, web)
			web.Snapshots = web.Snapshots[1:]
			web.Snapshots[0].Parent = ""
		}},
		{name: "an overlay whose snapshot virt-rotate has dropped", build: func(h *hosttest.Host, web *hosttest.Domain) {
			one(9, 10, 11)(h, web)
			releases(h, web, 0)
		}, steps: `
			commit vda: web.S9 into web
			redefine S10
			redefine S11
			delete web.S9`, reason: "nobody keeps the state in web"},
	}
	for _, s := range shapes {
		s.options = coalesce()
		t.Run(s.name, s.check)
	}
}

// A snapshot that its domain was reverted away from lies on a branch of its own.
func TestABranchThatNoDiskUsesKeepsItsBase(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(8, 9)(h, web)
	old := web.Snapshots
	disk := &web.Disks[0]
	branch := disk.Chain[1]
	disk.Chain, disk.Inactive = disk.Chain[:1], nil
	h.Create("back.qcow2", disk.Chain)
	disk.Chain = append(disk.Chain[:1:1], host.Layer{Path: h.Img("back.qcow2"), Format: "qcow2", Kind: "file"})
	disk.Inactive = host.Paths(disk.Chain)
	web.Want["vda"] = h.Read(disk.Active().Path)
	h.Take(web, []int{10, 11})
	web.Snapshots[0], web.Snapshots[1] = old[0], old[1]
	r := rotator(h, rule(2))
	r.Options = coalesce()
	runAll(h, t, r)
	checkData(h, t)
	if _, err := os.Stat(branch.Path); err != nil || filepath.Base(disk.Chain[0].Path) != "web.qcow2" {
		t.Errorf("branch: %v; chain: %v", err, h.Short(host.Paths(disk.Chain)))
	}
}
