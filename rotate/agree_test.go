package rotate

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// everything is all of the host that a refused run must leave as it is: images, what
// libvirt has on record, intents, and the layers that are on record as free.
func everything(h *hosttest.Host, t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, d := range h.Guests {
		text, err := json.Marshal(d.Observed(h.Jobs))
		hosttest.Must(err)
		fmt.Fprintf(&out, "%s\n", text)
	}
	kept := filesOf(h, t)
	for _, dir := range []string{"intents", "released"} {
		found, err := filepath.Glob(filepath.Join(h.Dir, "state", dir, "*"))
		hosttest.Must(err)
		kept = append(kept, found...)
	}
	for _, path := range kept {
		data, err := os.ReadFile(path)
		hosttest.Must(err)
		fmt.Fprintf(&out, "%s %s\n", path, data)
	}
	return out.String()
}

// What a plan refuses altogether, a run leaves exactly as it is; of the rest it does the
// steps that were planned.
func TestARunOfWhatIsRefusedChangesNothing(t *testing.T) {
	for _, s := range situations() {
		if s.change == nil {
			t.Run(strings.TrimSpace(s.code+" "+s.name), s.checkRun)
		}
	}
}

func (s situation) checkRun(t *testing.T) {
	h, r := s.host(t)
	h.Now = hosttest.Hour(12)
	p := planOf(h, t, r, "web")
	before := everything(h, t)
	ran := runAll(h, t, r)["web"]
	if have, want := lines(h, t, ran.Steps), lines(h, t, p.Steps); !slices.Equal(have, want) {
		t.Errorf("planned:\n%s\ndone:\n%s\n%s", strings.Join(want, "\n"), strings.Join(have, "\n"), ran.Error)
	}
	if len(p.Steps) > 0 {
		return
	}
	if p.Result != decide.ResultRefused || ran.Result != decide.ResultRefused || !slices.Equal(p.Refused, ran.Refused) {
		t.Errorf("planned %s %+v, ran %s %+v", p.Result, p.Refused, ran.Result, ran.Refused)
	}
	if after := everything(h, t); after != before {
		t.Errorf("changed:\n%s\nbefore:\n%s", h.Brief(after), h.Brief(before))
	}
}

// An ordinary host: what is planned is done, step by step.
type ordinary struct {
	name  string
	build func(t *testing.T, h *hosttest.Host, web *hosttest.Domain)
	rule  *policy.Rule
}

func ordinaries() []ordinary {
	plain := func(hours ...int) func(*testing.T, *hosttest.Host, *hosttest.Domain) {
		return func(_ *testing.T, h *hosttest.Host, web *hosttest.Domain) { one(hours...)(h, web) }
	}
	nothing := with(rule(0), func(r *policy.Rule) { r.Keep = policy.Keep{} })
	isOff := func(_ *testing.T, h *hosttest.Host, web *hosttest.Domain) {
		one(8, 9, 10, 11)(h, web)
		web.State, web.Cut = host.ShutOff, true
	}
	branched := func(t *testing.T, h *hosttest.Host, web *hosttest.Domain) {
		one(7, 8, 9, 10)(h, web)
		goBack(h, t, web, hosttest.Name(8))
		h.Now = hosttest.Hour(12)
	}
	return []ordinary{
		{"the first", plain(), rule(2)},
		{"one goes", plain(10, 11), rule(2)},
		{"a run goes", plain(7, 8, 9, 10, 11), rule(1)},
		{"all go", plain(9, 10, 11), nothing},
		{"pull", plain(8, 9, 10, 11), with(rule(1), func(r *policy.Rule) { r.Method = policy.MethodPull })},
		{"commit", plain(8, 9, 10, 11), with(rule(2), func(r *policy.Rule) { r.Method = policy.MethodCommit })},
		{"off", isOff, rule(2)},
		{"off, all go", isOff, nothing},
		{"off, pull", isOff, with(rule(1), func(r *policy.Rule) { r.Method = policy.MethodPull })},
		{"off, left alone", isOff, with(rule(1), func(r *policy.Rule) { r.Offline = policy.OfflineSkip })},
		{"branches", branched, rule(2)},
		{"branches go", branched, rule(1)},
		{"graft", func(_ *testing.T, h *hosttest.Host, web *hosttest.Domain) {
			h.CannotClone = nil
			one(8, 9, 10, 11)(h, web)
		}, with(rule(2), grafts)},
		{"two disks", func(_ *testing.T, h *hosttest.Host, web *hosttest.Domain) {
			h.Disk(web, "vda", "web.qcow2")
			h.Disk(web, "vdb", "data.raw")
			h.Take(web, []int{9, 10, 11})
		}, rule(1)},
		{"a chain that is full", plain(9, 10, 11), with(rule(2), func(r *policy.Rule) { r.MaxChain = 4 })},
		{"a snapshot that is refused, merges that are not", plain(9, 10, 11), with(rule(3), func(r *policy.Rule) { r.MaxChain = 3 })},
		{"a foreign snapshot", func(_ *testing.T, h *hosttest.Host, web *hosttest.Domain) {
			one(8, 9)(h, web)
			h.Foreign(web, "mine", 10)
			h.Take(web, []int{11})
		}, rule(1)},
		{"a golden image", func(_ *testing.T, h *hosttest.Host, web *hosttest.Domain) {
			h.Disk(web, "vda", "golden.qcow2", "web.qcow2")
			h.Take(web, []int{9, 10, 11})
			h.Disk(h.Add("other"), "vda", "golden.qcow2", "clone.qcow2")
		}, rule(1)},
	}
}

func TestARunDoesWhatWasPlanned(t *testing.T) {
	for _, o := range ordinaries() {
		t.Run(o.name, func(t *testing.T) {
			h := hosttest.New(t)
			web := h.Add("web")
			o.build(t, h, web)
			r := rotator(h, o.rule)
			p := planOf(h, t, r, "web")
			ran := runAll(h, t, r)["web"]
			if have, want := lines(h, t, ran.Steps), lines(h, t, p.Steps); !slices.Equal(have, want) || ran.Error != "" || !slices.Equal(p.Refused, ran.Refused) {
				t.Errorf("planned:\n%s\n%+v\ndone:\n%s\n%+v %s", strings.Join(want, "\n"), p.Refused, strings.Join(have, "\n"), ran.Refused, ran.Error)
			}
			checkData(h, t)
		})
	}
}

// meets are the headings of the rows of the table in docs/design.md.
var meets = []string{"a guest is started or stopped", "space runs out", "another host has a layer open", "a program of ours comes to read its layers", "a guest of another host comes to use a layer", "a hook fails", "a file or a snapshot is changed by somebody else"}

func TestWhatARunMayMeetIsWrittenDown(t *testing.T) {
	text, err := os.ReadFile("../docs/design.md")
	hosttest.Must(err)
	_, part, ok := strings.Cut(string(text), "\n## What a run may meet that no plan can know\n")
	part, _, _ = strings.Cut(part, "\n## ")
	if !ok {
		t.Fatal("docs/design.md has no such section")
	}
	for _, row := range meets {
		if !strings.Contains(part, "\n| "+row) {
			t.Errorf("no row %q", row)
		}
	}
	if rows := strings.Count(part, "\n| ") - 1; rows != len(meets) {
		t.Errorf("%d rows: the tests know %d", rows, len(meets))
	}
}
