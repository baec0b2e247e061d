package rotate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

const toSecond = "qemu+ssh://host2/system"

// newMovers has a pair whose guests can move, both ways.
func newMovers(t *testing.T, state host.State) (*pair, *hosttest.Domain) {
	p, web := newPair(t, 9, 10)
	web.State = state
	p.h[0].Move.Hosts = map[string]*hosttest.Host{toSecond: p.h[1]}
	p.h[1].Move.Hosts = map[string]*hosttest.Host{"back": p.h[0]}
	p.run(t, 0)
	return p, web
}

// boots forgets what the hosts remember beside what is on disk.
func (p *pair) boots() {
	for i := range p.h {
		p.boot(i)
		p.r[i].Mover = p.h[i]
	}
}

func (p *pair) migrate(t *testing.T, o MoveOptions) decide.Plan {
	t.Helper()
	p.boots()
	if o.To == "" {
		o.To = toSecond
	}
	plan, err := p.r[0].Migrate(context.Background(), "web", o)
	hosttest.Must(err)
	return plan
}

// records lists what is on record of moves anywhere.
func (p *pair) records() []string {
	var all []string
	for _, h := range p.h {
		for _, dir := range []string{"state", "img/.virt-rotate"} {
			found, _ := filepath.Glob(filepath.Join(h.Dir, dir, "moves", "*"))
			all = append(all, found...)
		}
	}
	return all
}

// allThere wants the guest on one host, with the snapshots, and nothing on record.
func (p *pair) allThere(t *testing.T, on int, place string) {
	t.Helper()
	d := p.h[on].Find("web")
	if d == nil || p.h[1-on].Find("web") != nil {
		t.Fatalf("%s: the guest is not on host%d alone", place, on+1)
	}
	var have []string
	current := ""
	for i := range d.Snapshots {
		have = append(have, d.Snapshots[i].Name)
		if d.Snapshots[i].Current {
			current += d.Snapshots[i].Name
		}
	}
	if want := []string{hosttest.Name(9), hosttest.Name(10)}; !slices.Equal(have, want) || current != want[1] {
		t.Errorf("%s: snapshots %v, current %q", place, have, current)
	}
	if left := p.records(); len(left) > 0 {
		t.Errorf("%s: on record is still %v", place, left)
	}
	p.check(t)
}

func states() []host.State { return []host.State{host.Running, host.Paused, host.ShutOff} }

func TestAGuestMovesWithItsSnapshots(t *testing.T) {
	for _, state := range states() {
		p, _ := newMovers(t, state)
		before := everything(p.h[0], t)
		planned := p.migrate(t, MoveOptions{Plan: true})
		if everything(p.h[0], t) != before || len(p.records()) > 0 {
			t.Fatal("--dry-run has changed something")
		}
		done := p.migrate(t, MoveOptions{})
		if done.Result != decide.ResultDone || len(done.Steps) != 5 || len(planned.Steps) != 5 {
			t.Fatalf("%+v\nplanned %+v", done, planned)
		}
		p.allThere(t, 1, string(state))
		p.boots()
		p.worksOn(t, 1)
		p.run(t, 0)
		p.allThere(t, 1, string(state))
	}
}

// What is refused leaves all as it was.
func TestAMigrationIsRefusedBeforeAnythingIsChanged(t *testing.T) {
	for name, c := range map[string]struct {
		code    string
		options []string
		do      func(p *pair, web *hosttest.Domain)
	}{
		"not shared":      {host.CodeNotShared, nil, func(p *pair, _ *hosttest.Domain) { p.r[0].Observer.Fleet.Shared = nil }},
		"another's name":  {host.CodeDestination, nil, func(p *pair, _ *hosttest.Domain) { p.h[1].Add("web").UUID = "another" }},
		"another's UUID":  {host.CodeDestination, nil, func(p *pair, web *hosttest.Domain) { p.h[1].Add("db").UUID = web.UUID }},
		"runs there":      {host.CodeDestination, nil, func(p *pair, web *hosttest.Domain) { p.as(web) }},
		"snapshots there": {host.CodeDestination, nil, func(p *pair, web *hosttest.Domain) { p.as(web).State = host.ShutOff }},
		"a job":           {host.CodeBlockJob, nil, func(p *pair, _ *hosttest.Domain) { p.h[0].Jobs["web/vda"] = &hosttest.Job{} }},
		"a saved state":   {host.CodeManagedSave, nil, func(_ *pair, web *hosttest.Domain) { web.ManagedSave = true }},
		"checkpoints":     {host.CodeCheckpoints, nil, func(_ *pair, web *hosttest.Domain) { web.Checkpoints = 1 }},
		"another's guest": {host.CodeElsewhere, nil, func(p *pair, web *hosttest.Domain) {
			p.as(web)
			p.boots()
			_, _ = p.r[1].Run(context.Background(), nil)
			p.h[1].Guests = nil
		}},
		"libvirt is busy": {host.CodeState, nil, func(_ *pair, web *hosttest.Domain) { web.Busy = "a migration" }},
		"copies":          {host.CodeDestination, []string{"--copy-storage-all"}, nil},
		"another name":    {host.CodeDestination, []string{"--dname=x"}, nil},
		"offline":         {host.CodeDestination, []string{"--offline"}, nil},
		"many words":      {host.CodeDestination, []string{"tcp://a", "tcp://b"}, nil},
		"its own guest":   {host.CodeDestination, []string{"--domain", "db"}, nil},
		"not by libvirtd": {host.CodeDestination, []string{"--direct"}, nil},
		"a short option":  {host.CodeDestination, []string{"-x"}, nil},
		"no protection":   {host.CodeDestination, []string{"--change-protection=off"}, nil},
		"an earlier move": {host.CodeMove, nil, func(p *pair, _ *hosttest.Domain) { p.dies(toSecond, 1<<30, "the move is on record") }},
	} {
		t.Run(name, func(t *testing.T) {
			p, web := newMovers(t, host.Running)
			p.boots()
			if c.do != nil {
				c.do(p, web)
			}
			before := everything(p.h[0], t) + everything(p.h[1], t) + fmt.Sprint(p.records())
			plan, err := p.r[0].Migrate(context.Background(), "web", MoveOptions{To: toSecond, Options: c.options})
			if err != nil || plan.Result != decide.ResultRefused || !refusedWith(plan, c.code) {
				t.Errorf("%+v %v", plan, err)
			}
			if everything(p.h[0], t)+everything(p.h[1], t)+fmt.Sprint(p.records()) != before {
				t.Error("something was changed")
			}
		})
	}
}

func TestAHostThatDoesNotAnswerIsNotMovedTo(t *testing.T) {
	p, _ := newMovers(t, host.Running)
	p.boots()
	before := everything(p.h[0], t)
	p.h[0].Move.Silent = true
	if _, err := p.r[0].Migrate(context.Background(), "web", MoveOptions{To: toSecond}); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Error(err)
	}
	if everything(p.h[0], t) != before || len(p.records()) > 0 {
		t.Error("something was changed")
	}
}

func TestAMigrationThatFailsLeavesAllAsItWas(t *testing.T) {
	for _, state := range states() {
		p, _ := newMovers(t, state)
		p.h[0].Move.Fails = errors.New("unsafe migration")
		done := p.migrate(t, MoveOptions{})
		if done.Result != decide.ResultFailed || !strings.Contains(done.Error, "unsafe migration") || len(done.Steps) > 0 {
			t.Errorf("%+v", done)
		}
		p.allThere(t, 0, string(state))
		p.worksOn(t, 0)
	}
}

// dies lets a migration die at the n-th place of both hosts, or at the first of that name; it returns the
// place, or "" if there was none.
func (p *pair) dies(to string, n int, name string) (at string) {
	p.boots()
	count := 0
	check := func(place string) error {
		if at != "" {
			runtime.Goexit()
		}
		if count++; count == n || place == name {
			at = place
			runtime.Goexit()
		}
		return nil
	}
	alive := [2]func(string) error{p.h[0].Event, p.h[1].Event}
	p.h[0].Event, p.h[1].Event, p.r[0].crash = check, check, func(place string) { _ = check(place) }
	p.r[0].Observer.Fleet.Crash = p.r[0].crash
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = p.r[0].Migrate(context.Background(), "web", MoveOptions{To: to})
	}()
	<-done
	p.h[0].Event, p.h[1].Event = alive[0], alive[1]
	p.boots()
	return at
}

// The central property of a move: wherever it dies, the guest is on one host, nothing is changed on the
// other, and runs of both, in any order, put all snapshots where the guest is.
func TestAMigrationThatDiesAnywhereIsFinished(t *testing.T) {
	for _, state := range states() {
		for _, first := range []int{0, 1} {
			n := 1
			for ; ; n++ {
				p, _ := newMovers(t, state)
				at := p.dies(toSecond, n, "")
				if at == "" {
					break
				}
				place := fmt.Sprintf("%s, host%d runs first, place %d, %q", state, first+1, n, at)
				for _, i := range []int{first, 1 - first, first, 1 - first} {
					p.run(t, i)
					p.check(t)
				}
				on := 0
				if p.h[0].Find("web") == nil {
					on = 1
				}
				p.allThere(t, on, place)
				p.worksOn(t, on)
				if t.Failed() {
					t.Fatal(place)
				}
			}
			if n < 30 {
				t.Errorf("only %d places to die at", n-1)
			}
		}
	}
}

// The host that began is gone for good, or the other one does not answer: what is known is enough, or
// nothing is changed until it is.
func TestAMoveWithoutTheOtherHost(t *testing.T) {
	p, _ := newMovers(t, host.Running)
	if p.dies(toSecond, 0, "end of migrate") == "" {
		t.Fatal("no such place")
	}
	p.h[0].Move.Silent = true
	p.run(t, 0) // it cannot ask
	if len(p.records()) != 2 {
		t.Errorf("%v", p.records())
	}
	w, err := p.r[0].Observer.Observe(context.Background())
	hosttest.Must(err)
	found := decide.Diagnose(w, nil, p.r[0].Match(decide.Guests(w)), p.h[0].Now)
	if !slices.ContainsFunc(found, func(f decide.Finding) bool { return f.Code == host.CodeMove && f.Domain == "web" }) {
		t.Errorf("doctor: %+v", found)
	}
	p.run(t, 1)
	p.run(t, 0)
	p.allThere(t, 1, "silent")
	p.worksOn(t, 1)
}

// A guest that was shut down after the move had begun may run elsewhere by now: nothing is decided without the
// other host's word.
func TestAGuestThatIsOffAfterwardsIsNotTakenForOneThatStayed(t *testing.T) {
	p, web := newMovers(t, host.Running)
	p.dies(toSecond, 0, "call migrate")
	web.State = host.ShutOff
	p.h[0].Move.Silent = true
	ran := p.run(t, 0)["web"]
	if !refusedWith(ran, host.CodeMove) || len(web.Snapshots) > 0 || len(p.records()) != 2 {
		t.Errorf("%+v, %v", ran, p.records())
	}
	p.h[0].Move.Silent = false
	p.run(t, 0)
	p.allThere(t, 0, "off")
}

// Until a move is finished, nothing merges or deletes a layer that its snapshots need.
func TestLayersOfAnOpenMoveAreKept(t *testing.T) {
	p, _ := newMovers(t, host.Running)
	p.dies(toSecond, 0, "end of migrate")
	p.h[0].Move.Silent = true
	db := p.h[0].Add("db")
	newest := "web." + hosttest.Name(10) + ".qcow2" // on which no image builds
	p.h[0].Disk(db, "vda", "web.qcow2", "web."+hosttest.Name(9)+".qcow2", newest)
	p.h[0].Take(db, []int{6, 7, 8})
	before, err := os.ReadFile(p.h[0].Img(newest))
	hosttest.Must(err)
	ran := p.run(t, 0)["db"]
	after, err := os.ReadFile(p.h[0].Img(newest))
	hosttest.Must(err)
	if string(after) != string(before) {
		t.Errorf("%+v", ran.Steps)
	}
}

// What stands on the storage is another's word.
func TestARecordThatCannotBeReadKeepsTheGuestAsItIs(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON": "{", "another guest's": `{"version":1,"id":"x","uuid":"uuid-of-db"}`, "of another version": `{"version":9,"id":"x","uuid":"uuid-of-web"}`,
		"a relative file": `{"version":1,"id":"x","uuid":"uuid-of-web","snapshots":[{"name":"a","xml":"b","files":["../x"]}]}`,
		"a hostile name":  `{"version":1,"id":"x","uuid":"uuid-of-web","snapshots":[{"name":"../a","xml":"b"}]}`,
	} {
		p, _ := newMovers(t, host.Running)
		dir := filepath.Join(p.h[0].Dir, "img/.virt-rotate/moves")
		hosttest.Must(os.MkdirAll(dir, 0o700))
		hosttest.Must(os.WriteFile(filepath.Join(dir, "uuid-of-web.json"), []byte(text), 0o600))
		p.boots()
		before := everything(p.h[0], t)
		if ran := p.run(t, 0)["web"]; !refusedWith(ran, host.CodeMove) || everything(p.h[0], t) != before {
			t.Errorf("%s: %+v", name, ran)
		}
	}
}
