package libvirthost

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/qcow2"
	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// noon is when the hosts are looked at.
var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// inspect reads headers as the program's does; of kinds beside qcow2 it tells what
// a glance does.
func inspect(path, format string) (chain.Image, error) {
	info, err := vfs.Stat(path)
	if err != nil {
		return chain.Image{}, err
	}
	if format == "raw" {
		return chain.Image{Format: "raw", VirtualSize: info.Size}, nil
	}
	if format != "qcow2" && format != "" {
		return chain.Image{}, fmt.Errorf("%s: format %q is not one that virt-rotate reads", path, format)
	}
	f, err := os.Open(path)
	if err != nil {
		return chain.Image{}, err
	}
	defer f.Close()
	if format == "" {
		g, err := chain.GlanceAt(f)
		return chain.Image{Format: g.Format, Backing: g.Backing, BackingFormat: g.BackingFormat, VirtualSize: info.Size}, err
	}
	return inspectQcow2(f, info.Size)
}

func inspectQcow2(r io.ReaderAt, size int64) (chain.Image, error) {
	h, err := qcow2.ReadHeader(r, size)
	if err != nil {
		return chain.Image{}, err
	}
	image := h.Image()
	image.Blank, err = qcow2.Blank(r, h, size)
	return image, err
}

// A madeCase is a host that was made up, and the sound domain beside it.
type madeCase struct {
	t       testing.TB
	seed    uint64
	host    *madeHost
	sound   texts
	touched map[string]string // layers of the sound domain that others name → the image that does, or ""
	state   string
	rules   policy.Assignment
}

func (c *madeCase) failf(format string, args ...any) {
	c.t.Helper()
	c.t.Errorf("VIRT_ROTATE_SEED=%d VIRT_ROTATE_DOMAINS=1: %s", c.seed, fmt.Sprintf(format, args...))
}

func (g *gen) rule() *policy.Rule {
	return &policy.Rule{Name: "p", Every: time.Hour, Keep: policy.Keep{Last: pick(g, 0, 1, 1, 2, 3)}, MaxChain: 30,
		Method: pick(g, policy.MethodAuto, policy.MethodAuto, policy.MethodCommit, policy.MethodPull, policy.MethodGraft), Quiesce: pick(g, policy.QuiesceAuto, policy.QuiesceNo),
		Offline: pick(g, policy.OfflineNative, policy.OfflineNative, policy.OfflineSkip)}
}

func newCase(t testing.TB, seed uint64, dir string) *madeCase {
	for _, sub := range []string{"made", "sound", "state"} {
		must(os.Mkdir(filepath.Join(dir, sub), 0o755))
	}
	g := newGen(seed, filepath.Join(dir, "made"))
	sound, layers := soundDomain(filepath.Join(dir, "sound"), pick(g, "", "sound"), pick(g, host.Running, host.ShutOff))
	if g.in100(25) {
		g.sound = layers
	}
	host := g.host()
	c := &madeCase{t: t, seed: seed, host: host, sound: sound, touched: g.touchedBy(host), state: filepath.Join(dir, "state"),
		rules: policy.Assignment{Rules: map[string]*policy.Rule{"sound": g.rule()}}}
	for _, d := range c.host.domains {
		c.rules.Rules[d.name] = g.rule()
	}
	return c
}

// see observes a host with these domains.
func (c *madeCase) see(domains ...texts) *observe.World {
	h := *c.host
	h.domains = domains
	o := &observe.Observer{Host: &h, Inspect: inspect, StateDir: c.state}
	w, err := o.Observe(c.t.Context())
	must(err)
	for _, f := range w.Faults {
		c.failf("a fault in looking: %v\n%s", f, f.Stack)
	}
	return w
}

func (c *madeCase) decide(w *observe.World, d *host.Domain) (p decide.Plan) {
	if f := host.Contain(d.Name, func() { p = decide.Decide(w, d, c.rules.Rules[d.Name], noon, decide.Options{}) }); f != nil {
		c.failf("a fault in deciding on %s: %v\n%s", d.Name, f, f.Stack)
	}
	return p
}

// checkHost makes a host up and sees that nothing in it takes anything along.
func checkHost(t testing.TB, seed uint64) {
	dir, remove := madeDir()
	defer remove()
	c := newCase(t, seed, dir)
	if f := host.Contain("", func() { c.check() }); f != nil {
		c.failf("a fault: %v\n%s", f, f.Stack)
	}
}

func (c *madeCase) check() {
	alone := c.see(c.sound)
	w := c.see(append(slices.Clone(c.host.domains), c.sound)...)
	for i := range w.Domains {
		d := &w.Domains[i]
		p := c.decide(w, d)
		c.checkPlan(w, d, &p)
		c.checkReports(w, d, &p)
		c.checkOthers(w, d, &p)
	}
	c.checkSound(alone, w)
	c.checkForest(w)
}

// checkPlan sees that a plan is the same each time, and that a refusal says all.
func (c *madeCase) checkPlan(w *observe.World, d *host.Domain, p *decide.Plan) {
	if again := c.decide(w, d); !reflect.DeepEqual(p.Steps, again.Steps) || !reflect.DeepEqual(p.Refused, again.Refused) || p.Waiting != again.Waiting {
		c.failf("%s: planned\n%+v, then\n%+v", d.Name, p.Steps, again.Steps)
	}
	if p.Result == decide.ResultRefused && len(p.Steps) > 0 {
		c.failf("%s: refused, with steps %v", d.Name, p.Steps)
	}
	for _, s := range p.Steps {
		if s.Reason == "" {
			c.failf("%s: no reason for %v", d.Name, s)
		}
	}
	for _, r := range p.Refused {
		if r.Code == "" || strings.TrimSpace(r.Detail) == "" {
			c.failf("%s: says little: %+v", d.Name, r)
		}
	}
}

// otherNames are the refusals that doctor has another name for.
var otherNames = map[string]string{host.CodeMismatch: decide.FindMismatch, host.CodeBlockJob: decide.FindJob}

// checkReports sees that status and doctor tell all that is refused.
func (c *madeCase) checkReports(w *observe.World, d *host.Domain, p *decide.Plan) {
	s := rotate.Status(w, d, c.rules.Rules[d.Name], nil, noon)
	if !reflect.DeepEqual(s.Refused, p.Refused) {
		c.failf("%s: plan refuses %+v, status %+v", d.Name, p.Refused, s.Refused)
	}
	found := decide.Diagnose(w, []string{d.Name}, c.rules, noon)
	for _, r := range p.Refused {
		if !slices.ContainsFunc(found, func(f decide.Finding) bool { return tells(f, r) }) {
			c.failf("%s: doctor does not tell %+v, but\n%+v", d.Name, r, found)
		}
	}
	for _, f := range append(found, decide.Diagnose(w, nil, c.rules, noon)...) {
		if f.Code == host.CodeFault || f.Detail == "" || f.Remedy == "" {
			c.failf("%s: doctor: %+v", d.Name, f)
		}
	}
	for i := range d.Snapshots {
		d.States(&d.Snapshots[i])
		_ = decide.Intact(w, d, d.Snapshots[i].Name)
	}
	w.Destroyed(d)
}

func tells(f decide.Finding, r decide.Refusal) bool {
	code := r.Code
	if other, ok := otherNames[code]; ok {
		code = other
	}
	same := f.Code == code || r.Code == host.CodeUnreadable && f.Code == decide.FindStrange && f.Detail == r.Detail
	return same && f.Remedy != "" && (f.Path == r.Path || f.Path == "" || r.Path == "")
}

// checkOthers sees that no plan changes or deletes a layer that another domain has.
func (c *madeCase) checkOthers(w *observe.World, d *host.Domain, p *decide.Plan) {
	has := map[vfs.ID]string{}
	for i := range w.Domains {
		if other := &w.Domains[i]; other.Name != d.Name {
			noteFiles(has, other)
		}
	}
	for _, s := range p.Steps {
		path := s.Path
		if s.Op == decide.OpMerge {
			path = s.Into()
		} else if s.Op != decide.OpDeleteFile {
			continue
		}
		info, err := vfs.Stat(path)
		if err == nil && has[info.ID] != "" {
			c.failf("%s: %v, but it is in use: %s", d.Name, s, has[info.ID])
		}
	}
}

// noteFiles notes which files a domain has.
func noteFiles(has map[vfs.ID]string, d *host.Domain) {
	note := func(paths ...string) {
		for _, path := range paths {
			if info, err := vfs.Stat(path); err == nil {
				has[info.ID] = d.Name + ": " + path
			}
		}
	}
	for i := range d.Disks {
		if d.State.Live() { // else its headers tell of more than it names
			note(layerPaths(d.Disks[i].Chain)...)
		}
		note(d.Disks[i].Inactive...)
	}
	note(d.Elsewhere...)
	for i := range d.Snapshots {
		for _, state := range d.States(&d.Snapshots[i]) {
			note(state.Path) // what its headers tell of below may be merged
		}
		for _, sd := range d.Snapshots[i].Disks {
			note(sd.State...)
		}
	}
}

// checkSound sees that the sound domain is planned as it is alone, unless others name its
// layers, or what one has is not known at all.
func (c *madeCase) checkSound(alone, w *observe.World) {
	want, have := c.decide(alone, alone.Domain("sound")), c.decide(w, w.Domain("sound"))
	same := reflect.DeepEqual(want.Steps, have.Steps) && reflect.DeepEqual(want.Refused, have.Refused)
	anywhere := slices.ContainsFunc(w.Strange, func(s observe.Strange) bool { return s.Anywhere })
	switch {
	case len(c.touched) > 0:
		c.checkTouched(w, &have)
	case anywhere && !same:
		c.checkDoubtful(&have)
	case !same:
		c.failf("sound: planned\n%+v %+v, alone\n%+v %+v", have.Steps, have.Refused, want.Steps, want.Refused)
	}
}

func (c *madeCase) checkTouched(w *observe.World, p *decide.Plan) {
	for _, s := range p.Steps {
		into := s.Path
		if s.Op == decide.OpMerge {
			into = s.Into()
		}
		by, named := c.touched[into]
		_, looked := w.Dirs[filepath.Dir(by)] // an image of nobody in a directory of nobody is not found
		if s.Op != decide.OpSnapshot && named && (looked || by == "") && !asOtherFormat(w, by) {
			c.failf("sound: %v, but others name it: %q", s, by)
		}
	}
}

// asOtherFormat tells whether a domain has the image as one that builds on nothing: what
// its header says is the guest's affair then.
func asOtherFormat(w *observe.World, image string) bool {
	info, err := vfs.Stat(image)
	if err != nil {
		return false
	}
	for i := range w.Domains {
		for _, disk := range w.Domains[i].Disks {
			if slices.ContainsFunc(disk.Chain, func(l host.Layer) bool { return l.ID == info.ID && l.Format != "qcow2" }) {
				return true
			}
		}
	}
	return false
}

func (c *madeCase) checkDoubtful(p *decide.Plan) {
	if slices.ContainsFunc(p.Steps, func(s decide.Step) bool { return s.Op == decide.OpMerge }) ||
		!slices.ContainsFunc(p.Refused, func(r decide.Refusal) bool { return r.Code == host.CodeDoubt }) {
		c.failf("sound: what others have is not known: %+v %+v", p.Steps, p.Refused)
	}
}

// checkForest sees that each layer stands in one tree, and that its users can be told.
func (c *madeCase) checkForest(w *observe.World) {
	seen := map[string]bool{}
	var walk func(l *chain.Layer)
	walk = func(l *chain.Layer) {
		if seen[l.Key] {
			c.failf("%s stands in the forest twice", l.Path)
			return
		}
		seen[l.Key] = true
		for _, child := range l.Children {
			walk(child)
		}
	}
	for _, root := range w.Forest.Roots() {
		walk(root)
	}
	for _, l := range w.Forest.Layers() {
		if !seen[l.Key] {
			c.failf("%s stands in no tree", l.Path)
		}
		if _, err := w.UsersOf(l.Path); err != nil && l.Path == "" {
			c.failf("a layer without a path: %v", err)
		}
	}
}

// setting is a number from the environment.
func setting(name string, otherwise uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return otherwise
}

// Hosts with anything on them: nothing panics, nothing takes the others along, and all
// that is refused is told.
func TestHostsWithAnything(t *testing.T) {
	first, n := setting("VIRT_ROTATE_SEED", 1), setting("VIRT_ROTATE_DOMAINS", 300)
	t.Logf("seeds %d to %d", first, first+n-1)
	var wg sync.WaitGroup
	seeds := make(chan uint64)
	for range 4 {
		wg.Go(func() {
			for seed := range seeds {
				checkHost(t, seed)
			}
		})
	}
	for i := range n {
		if t.Failed() && n > 1000 {
			break
		}
		seeds <- first + i
	}
	close(seeds)
	wg.Wait()
}

func FuzzHosts(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { checkHost(t, seed) })
}
