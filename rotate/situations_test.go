package rotate

import (
	"errors"
	"os"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A situation is a host whose domain "web" is refused with a code.
type situation struct {
	code, name string
	host       func(t *testing.T) (*hosttest.Host, *Rotator)
	change     func(w *observe.World, web *host.Domain) // what no host of ours can show; nil: nothing
}

// situations are those of refusals, and those that need more than one thing that is broken.
func situations() []situation {
	var all []situation
	for _, c := range refusals() {
		all = append(all, situation{code: c.code, name: c.name, host: c.host})
	}
	return append(all,
		situation{code: host.CodeSize, host: three(rule(2)), change: func(_ *observe.World, web *host.Domain) {
			base := &web.Disks[0].Chain[0]
			base.Kind, base.Format, base.Allocated, base.Image.Format = "block", "raw", 1<<30, "raw"
			web.Disks[0].Chain[1].Image.BackingFormat = "raw"
			for i := range web.Disks[0].Chain[1:] {
				web.Disks[0].Chain[1+i].Size = 2 << 30
			}
		}},
		situation{code: host.CodeLeftover, host: leftoverInUse},
		situation{code: host.CodeMethod, host: cannotGraft},
		situation{code: host.CodeAdoption, host: adoptionCutOff},
		situation{code: host.CodeRestart, host: func(t *testing.T) (*hosttest.Host, *Rotator) { h, _, r := missed(t); return h, r }},
		situation{code: host.CodeStopped, host: stoppedInPivot},
		situation{code: host.CodeDoubt, host: besideStrange},
		situation{code: host.CodeLocalLocks, host: func(t *testing.T) (*hosttest.Host, *Rotator) {
			h, r := three(rule(2))(t)
			r.Observer.Probes.LocksStayLocal = func(string) (string, error) { return "/mnt is mounted with nolock (nfs)", nil }
			return h, r
		}},
		situation{code: host.CodeElsewhere, host: func(t *testing.T) (*hosttest.Host, *Rotator) {
			p, web := newPair(t, 9, 10, 11)
			p.run(t, 0)
			p.as(web)
			return p.h[1], p.r[1]
		}},
		situation{code: host.CodeMove, host: func(t *testing.T) (*hosttest.Host, *Rotator) {
			p, web := newMovers(t, host.Running)
			p.dies(toSecond, 0, "call migrate")
			web.State = host.ShutOff
			p.h[0].Move.Silent = true
			return p.h[0], p.r[0]
		}},
		situation{code: host.CodeHosts, host: func(t *testing.T) (*hosttest.Host, *Rotator) {
			p, _ := newPair(t, 9, 10, 11)
			p.clone("web.qcow2")
			p.run(t, 1)
			hosttest.Must(os.Truncate(usersOf(p, 1), 3))
			return p.h[0], p.r[0]
		}},
		situation{code: host.CodeDestroyed, host: func(t *testing.T) (*hosttest.Host, *Rotator) { h, _ := pivotedBelow(t); return h, rotator(h, rule(3)) }},
		situation{code: host.CodeComma, host: func(t *testing.T) (*hosttest.Host, *Rotator) {
			h := hosttest.New(t)
			web := h.Add("web")
			h.Disk(web, "vda", "a,b.qcow2")
			web.State = host.ShutOff
			return h, rotator(h, rule(7))
		}},
		situation{code: host.CodeInUse, host: func(t *testing.T) (*hosttest.Host, *Rotator) {
			h, _ := off(t, 9, 10, 11)
			t.Cleanup(held(t, h.Img("web.qcow2"), vfs.LockWrite))
			return h, rotator(h, rule(1))
		}})
}

// notOfAPlan are the codes with which Decide never refuses, and why.
var notOfAPlan = map[string]string{
	host.CodeHook:        "a hook fails only when it is run",
	host.CodeFault:       "a fault is of the program, not of the domain: TestAFaultInLookingIsTheDomains",
	host.CodeOwnPolicy:   "there is no rule to decide by: TestADomainWhoseMetadataIsAtFaultIsRefused",
	host.CodeTwoPolicies: "there is no rule to decide by: TestDoctorTellsOfTwoPolicies",
	host.CodeForeign:     "of a restore: what is newer is looked at only then; of a deletion by hand: TestWhatStaysWhateverIsNamed",
	host.CodePinned:      "of a deletion by hand: TestWhatStaysWhateverIsNamed",
	host.CodeMemory:      "of a snapshot by hand: TestMemoryThatCannotBeKeptIsRefused; of a restore: TestMemoryThatCannotBeGoneBackToIsRefused",
	host.CodeNameTaken:   "of a snapshot by hand: TestANameThatIsTakenIsRefused",
	host.CodeNotShared:   "of a migration: TestAMigrationIsRefusedBeforeAnythingIsChanged",
	host.CodeDestination: "of a migration: TestAMigrationIsRefusedBeforeAnythingIsChanged",
	host.CodeMetadata:    "of a restore, which rehearses what it would write",
	host.CodeCheckpoints: "of a restore; a snapshot that is due waits for the guest's start, which is no refusal",
}

func (c refusalCase) host(t *testing.T) (*hosttest.Host, *Rotator) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(10, 11)(h, web)
	r := rule(3)
	if c.break_ != nil {
		c.break_(h, web)
	}
	if c.rule != nil {
		c.rule(r)
	}
	return h, rotator(h, r)
}

// three is a domain with three snapshots.
func three(r *policy.Rule) func(*testing.T) (*hosttest.Host, *Rotator) {
	return func(t *testing.T) (*hosttest.Host, *Rotator) {
		h := hosttest.New(t)
		one(9, 10, 11)(h, h.Add("web"))
		return h, merging(h, r)
	}
}

// merging is a rotator that takes no snapshot.
func merging(h *hosttest.Host, r *policy.Rule) *Rotator {
	x := rotator(h, r)
	x.Options = coalesce()
	return x
}

func leftoverInUse(t *testing.T) (*hosttest.Host, *Rotator) {
	h, _ := interrupted(t, "before delete-file", hosttest.JobsDie)
	h.Store(h.Img("clone.qcow2"), hosttest.Image{Format: "qcow2", Size: hosttest.Size, Backing: h.Img("web." + hosttest.Name(9) + ".qcow2"), BackingFormat: "qcow2"})
	return h, merging(h, rule(2))
}

func cannotGraft(t *testing.T) (*hosttest.Host, *Rotator) {
	h, web := sharing(t)
	h.CannotClone = errors.New("this file system cannot")
	one(9, 10, 11)(h, web)
	return h, merging(h, with(rule(2), grafts))
}

func stoppedInPivot(t *testing.T) (*hosttest.Host, *Rotator) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(9)(h, web)
	nothing := with(rule(0), func(r *policy.Rule) { r.Keep = policy.Keep{} })
	if !dieAt(h, rotator(h, nothing), "block of merge") {
		t.Fatal("no merge")
	}
	h.AfterCrash(hosttest.JobsDie)
	web.State = host.ShutOff
	return h, rotator(h, nothing)
}

func besideStrange(t *testing.T) (*hosttest.Host, *Rotator) {
	h, r := three(rule(2))(t)
	hosttest.Must(os.WriteFile(h.Img("odd.qcow2"), []byte("{"), 0o600))
	return h, r
}
