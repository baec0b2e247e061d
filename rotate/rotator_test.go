package rotate

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// rule is the policy p, which keeps the last snapshots.
func rule(last int) *policy.Rule {
	return &policy.Rule{
		Name: "p", Every: time.Hour, Keep: policy.Keep{Last: last}, MaxChain: 30,
		Method: policy.MethodAuto, Quiesce: policy.QuiesceAuto, Offline: policy.OfflineNative,
		OnUnsuitable: policy.UnsuitableRefuse,
		Check:        policy.Check{Warn: 2, Crit: 4, Timer: time.Hour, Waiting: 48 * time.Hour},
	}
}

// rotator rotates every domain whose name does not start with "other" by rule.
func rotator(h *hosttest.Host, r *policy.Rule) *Rotator {
	return &Rotator{
		Observer: observer(h),
		Host:     h,
		Engine:   hosttest.Engine{On: h},
		Clock:    h.Clock,
		Report:   func(Event) {},
		Match: func(all []policy.Guest) policy.Assignment {
			a := policy.Assignment{Rules: map[string]*policy.Rule{}}
			for _, g := range all {
				if !strings.HasPrefix(g.Name, "other") {
					a.Rules[g.Name] = r
				}
			}
			return a
		},
	}
}

// guests are domains whose metadata says nothing.
func guests(names ...string) []policy.Guest {
	all := make([]policy.Guest, len(names))
	for i, name := range names {
		all[i].Name = name
	}
	return all
}

func observer(h *hosttest.Host) *observe.Observer {
	return &observe.Observer{Host: h, Inspect: h.Inspect, StateDir: filepath.Join(h.Dir, "state"),
		Probes: observe.Probes{CanClone: h.Cloning, Settle: time.Millisecond, SpaceAt: func(dir string) (vfs.Space, error) { return h.Space(dir) }}}
}

// releases lets virt-rotate have dropped snapshots without merging their layers.
func releases(h *hosttest.Host, d *hosttest.Domain, which ...int) {
	var layers []journal.File
	for _, i := range slices.Backward(which) {
		for _, f := range overlaysOf(&d.Domain, &d.Snapshots[i]) {
			info, err := vfs.Stat(f.Path)
			hosttest.Must(err)
			layers = append(layers, journal.File{Path: f.Path, ID: info.ID})
		}
		for k := range d.Snapshots {
			if d.Snapshots[k].Parent == d.Snapshots[i].Name {
				d.Snapshots[k].Parent = d.Snapshots[i].Parent
			}
		}
		d.Snapshots = slices.Delete(d.Snapshots, i, i+1)
	}
	hosttest.Must(journal.SaveReleased(filepath.Join(h.Dir, "state"), &d.Domain, layers))
}
