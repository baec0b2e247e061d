package integration_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

// A stillLife is all that a run could change of a guest, while the guest itself
// changes nothing: it is suspended or shut off.
type stillLife struct {
	dom   string
	dirs  []string
	facts map[string]string
}

// still suspends the guest, if it runs, and looks at it and at the directories.
func (b *bed) still(dom string, dirs ...string) stillLife {
	b.t.Helper()
	if b.domState(dom) == "running" {
		b.virsh("suspend", dom)
	}
	s := stillLife{dom, append(dirs, b.path("state", "intents"), b.path("images")), nil}
	s.facts = s.look(b)
	return s
}

func (s *stillLife) look(b *bed) map[string]string {
	b.t.Helper()
	facts := map[string]string{"live XML": b.virsh("dumpxml", s.dom)}
	if strings.Contains(b.virsh("dominfo", s.dom), "Persistent:     yes") {
		facts["inactive XML"] = b.virsh("dumpxml", "--inactive", s.dom)
	}
	for _, name := range b.snapshotNames(s.dom) {
		facts["snapshot "+name] = b.virsh("snapshot-dumpxml", s.dom, name)
	}
	for _, dir := range s.dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		must(b.t, err)
		for _, f := range files {
			if info, err := os.Stat(f); err == nil && info.Mode().IsRegular() {
				facts[f] = sum(b.t, f)
			}
		}
	}
	return facts
}

// unchanged fails the test if anything has changed, and lets the guest go on.
func (s *stillLife) unchanged(b *bed) {
	b.t.Helper()
	now := s.look(b)
	for what, was := range s.facts {
		if now[what] != was {
			b.t.Errorf("%s has changed from\n%s\nto\n%s", what, was, now[what])
		}
	}
	for what := range now {
		if _, there := s.facts[what]; !there {
			b.t.Errorf("%s is new", what)
		}
	}
	if b.domState(s.dom) == "paused" {
		b.virsh("resume", s.dom)
	}
}

// An obstacle makes virt-rotate refuse a guest that has two snapshots of three
// layers. It is put there by raise, and taken away again by lower.
type obstacle struct {
	name         string
	raise, lower func(b *bed)
	code         string
	bare         bool // without snapshots
}

var obstacles = []obstacle{
	{
		name: "block copy by somebody else", code: "block-job",
		raise: func(b *bed) {
			b.virsh("blockcopy", "g1", "vda", "--dest", b.path("copy.qcow2"), "--format", "qcow2", "--transient-job")
			b.jobReady("g1", "vda")
		},
		lower: func(b *bed) { b.virsh("blockjob", "g1", "vda", "--abort") },
	},
	{
		name: "block commit by somebody else", code: "block-job",
		raise: func(b *bed) {
			names := b.snapshotNames("g1")
			b.virsh("snapshot-delete", "g1", names[len(names)-1], "--metadata") // the commit destroys its state
			layers := b.chain("g1", "vda")
			b.virsh("suspend", "g1") // it would write, and there would be more to copy
			b.virsh("blockcommit", "g1", "vda", "--active", "--base", layers[1].Path, "--bandwidth", "1", "--bytes")
			b.jobRests("g1", "vda")
		},
		lower: func(b *bed) { b.virsh("blockjob", "g1", "vda", "--abort") },
	},
	{
		name: "managed save", code: "managed-save",
		raise: func(b *bed) { b.virsh("managedsave", "g1") },
		lower: func(b *bed) { b.start("g1") },
	},
	{
		name: "transient domain", code: "transient", bare: true,
		raise: func(b *bed) {
			must(b.t, os.WriteFile(b.path("saved.xml"), []byte(b.virsh("dumpxml", "--inactive", "g1")), 0o600))
			b.virsh("undefine", "g1")
		},
		lower: func(b *bed) { b.virsh("define", b.path("saved.xml")) },
	},
	{
		name: "internal snapshot of a guest that is off", bare: true, code: "internal-snapshots",
		raise: func(b *bed) {
			b.destroy("g1")
			b.virsh("snapshot-create-as", "g1", "internal")
		},
		lower: func(b *bed) {
			b.virsh("snapshot-delete", "g1", "internal")
			b.start("g1")
		},
	},
	{
		name: "internal snapshot that libvirt does not know", code: "internal-snapshots", bare: true,
		raise: func(b *bed) {
			b.destroy("g1")
			b.qemuImg("snapshot", "-c", "internal", b.path("images", "g1-vda.qcow2"))
			b.start("g1")
		},
		lower: func(b *bed) {
			b.destroy("g1")
			b.qemuImg("snapshot", "-d", "internal", b.path("images", "g1-vda.qcow2"))
			b.start("g1")
		},
	},
	{
		name: "another persistent configuration", code: "configuration-differs",
		raise: func(b *bed) {
			layers := b.chain("g1", "vda")
			b.redefine("g1", layers[0].Path, layers[1].Path)
		},
		lower: func(b *bed) {
			overlay := b.disk("g1", "vda").Path
			b.redefine("g1", b.chain("g1", "vda")[1].Path, overlay)
		},
	},
}

// jobRests waits until a job has made the first copy, which is beyond the limit.
func (b *bed) jobRests(dom, target string) {
	b.t.Helper()
	last := int64(0)
	b.await("the job on "+dom+" "+target+" to rest", func() bool {
		was := last
		last = b.copied(dom, target)
		return last > 0 && last == was
	})
}

// redefine replaces the active layer of a guest's persistent configuration.
func (b *bed) redefine(dom, from, to string) {
	b.t.Helper()
	xml := b.virsh("dumpxml", "--inactive", dom)
	disk, chain, _ := strings.Cut(xml, "<source file='"+from+"'")
	_, rest, _ := strings.Cut(chain, "</disk>")
	xml = disk + "<source file='" + to + "'/><target dev='vda' bus='ide'/><boot order='2'/>" +
		"<address type='drive' controller='0' bus='0' unit='0'/></disk>" + rest
	file := b.path("redefined.xml")
	must(b.t, os.WriteFile(file, []byte(xml), 0o600))
	b.virsh("define", file)
}

func TestRefusalsChangeNothing(t *testing.T) {
	t.Parallel()
	for _, o := range few(obstacles, 3) {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			b := newDaemonBed(t)
			b.logsOnFailure("g1")
			b.writePolicy(keep("2", ""))
			b.boot(guest.Spec{Name: "g1"})
			if !o.bare {
				b.rotations("g1", 2)
			}
			o.raise(b)
			before := b.still("g1")
			for _, args := range [][]string{{"run", "--now"}, {"run", "--no-snapshot"}} {
				b.wantRefused(o.code, args...)
			}
			before.unchanged(b)
			o.lower(b)
			kept := b.keptStates("g1")
			b.waitWrites("g1", 40)
			b.rotateNow("g1")
			b.unchanged("g1", kept)
			b.checkGuest("g1")
		})
	}
}

// wantRefused runs virt-rotate, which must refuse guest g1 for that reason only.
func (b *bed) wantRefused(code string, args ...string) {
	b.t.Helper()
	var out report
	b.rotate(append(args, "--output=json")...).wantExit(b.t, 4).decode(b.t, &out)
	d := out.Domains[0]
	codes := map[string]bool{}
	for _, refused := range d.Refused {
		codes[refused.Code] = true
		b.t.Log(refused.Detail)
	}
	if want := map[string]bool{code: true}; d.Result != "refused" || len(d.Steps) > 0 || !maps.Equal(codes, want) {
		b.t.Errorf("result %q, %d steps, refused for %v, want %q", d.Result, len(d.Steps), slices.Sorted(maps.Keys(codes)), code)
	}
}

func TestAGuestThatIsOffIsSkipped(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(keep("1", "offline = \"skip\""))
	b.boot(guest.Spec{Name: "g1"})
	b.rotations("g1", 1)
	b.destroy("g1")
	before := b.still("g1")
	b.wantSkipped("run", "--now")
	before.unchanged(b)
}

// wantSkipped runs virt-rotate, which must leave guest g1 alone since it is off.
func (b *bed) wantSkipped(args ...string) {
	b.t.Helper()
	var out report
	b.rotate(append(args, "--output=json")...).wantExit(b.t, 0).decode(b.t, &out)
	if d := out.Domains[0]; d.Result != "skipped" || len(d.Steps) > 0 || !strings.Contains(d.Waiting, "shut off") {
		b.t.Errorf("got %+v", d)
	}
}

// An image that cannot be read may build on any image beside it: nothing is
// merged there, and the chain keeps a layer for it.
// An image that does not tell what it builds on keeps its directory from being merged: no
// snapshot goes, and each run says so.
func TestAnUnreadableNeighbourStopsMerges(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	b.writePolicy(keep("2", ""))
	b.boot(guest.Spec{Name: "g1"})
	b.rotations("g1", 2)
	neighbour := b.path("images", "neighbour.qcow2")
	must(t, os.WriteFile(neighbour, []byte("QFI\xfb\x00\x00\x00\x63"+strings.Repeat("not a header that anybody knows", 20)), 0o600))
	base := b.path("images", "g1-vda.qcow2")
	was := sum(t, base)
	for _, layers := range []int{4, 5} {
		r := b.rotate("run", "--now", "g1").wantExit(t, 3)
		if n := len(b.chain("g1", "vda")); n != layers || len(b.snapshotNames("g1")) != layers-1 || !strings.Contains(r.Stdout, neighbour) {
			t.Errorf("%d layers, want %d: %v", n, layers, r)
		}
	}
	if sum(t, base) != was {
		t.Error("the base has changed")
	}
	if r := b.rotate("doctor").wantExit(t, 1); !strings.Contains(r.Stdout, neighbour) {
		t.Errorf("doctor says nothing of it: %v", r)
	}
	must(t, os.Remove(neighbour))
	b.recover("g1", 3, "--no-snapshot")
	b.restart("g1")
}

func TestASecondRunNamesTheFirst(t *testing.T) {
	t.Parallel()
	b := newDaemonBed(t)
	kept, first := b.inSlowMerge("2")
	second := b.rotate("run", "--now").wantExit(t, 5)
	if holder := fmt.Sprintf("pid %d ", first.cmd.Process.Pid); !strings.Contains(second.Stderr, holder) {
		t.Errorf("want %q, got %v", holder, second)
	}
	b.hurry("g1")
	first.wait().wantExit(t, 0)
	b.wantSurvivors("g1", kept)
	b.wantTidy("g1", 3)
}

// One guest is refused, or dies amid its merge; the other is rotated all the same.
func TestOneGuestDoesNotHarmAnother(t *testing.T) {
	t.Parallel()
	for _, result := range []string{"refused", "failed"} {
		t.Run(result, func(t *testing.T) {
			t.Parallel()
			b := newDaemonBed(t)
			b.define(guest.Spec{Name: "g2"})
			b.start("g2")
			b.writePolicy(keep("2", ""))
			b.boot(guest.Spec{Name: "g1"})
			b.rotations("g1", 2)
			b.rotations("g2", 2)
			b.writePolicy(keep("2", slow+"\n"+left))
			b.fillOverlay("g2")
			kept := map[string]promise{"g1": b.survivors("g1", "--now"), "g2": b.survivors("g2", "--now")}
			if result == "refused" {
				b.virsh("blockcopy", "g1", "vda", "--dest", b.path("copy.qcow2"), "--format", "qcow2", "--transient-job")
			}
			r := b.beginRotate("run", "--now", "--output=json")
			victim, other := "g1", "g2"
			if result == "failed" {
				if victim = b.firstJob(r); victim == "g2" {
					other = "g1"
				}
				b.crash(victim)
			}
			b.jobRuns(r, other, "vda") // it comes when the victim's is over
			b.hurry(other)
			var out report
			r.wait().wantExit(t, 3).decode(t, &out)
			results := map[string]string{}
			for _, d := range out.Domains {
				results[d.Name] = d.Result
			}
			if want := map[string]string{victim: result, other: "done"}; !maps.Equal(results, want) {
				t.Errorf("results %v, want %v", results, want)
			}
			b.wantSurvivors(other, kept[other])
			if n := len(b.chain(other, "vda")); n != 3 {
				t.Errorf("%s has %d layers, want 3", other, n)
			}
		})
	}
}

// firstJob returns the guest whose merge runs first: they share a file system.
func (b *bed) firstJob(r *rotation) string {
	b.t.Helper()
	first := ""
	b.awaitIn(r, "a job", func() bool {
		for _, dom := range []string{"g1", "g2"} {
			if first == "" && b.job(dom, "vda") {
				first = dom
			}
		}
		return first != ""
	})
	return first
}
