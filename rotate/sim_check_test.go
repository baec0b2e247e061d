package rotate

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// checkData sees that every guest, every snapshot that libvirt lists, and
// every image of nobody reads what it must. It holds at every moment.
func checkData(h *hosttest.Host, t *testing.T) {
	t.Helper()
	intents, err := journal.In(filepath.Join(h.Dir, "state")).Load()
	hosttest.Must(err)
	for _, d := range h.Guests {
		for i := range d.Disks {
			disk := &d.Disks[i]
			walked := h.Walk(disk.Active().Path)
			if !d.State.Live() && !slices.Equal(walked, host.Paths(disk.Chain)) {
				// Cut off before libvirt was told: a guest would start on libvirt's chain.
				if got := h.Over(host.Paths(disk.Chain)); !maps.Equal(got, d.Want[disk.Target]) {
					t.Fatalf("%s/%s: started from libvirt's chain it would read %v, not %v", d.Name, disk.Target, got, d.Want[disk.Target])
				}
			} else if !slices.Equal(walked, host.Paths(disk.Chain)) {
				t.Fatalf("%s/%s: the headers form %v, libvirt has %v", d.Name, disk.Target, h.Short(walked), h.Short(host.Paths(disk.Chain)))
			}
			reads(h, t, d.Name+"/"+disk.Target, disk.Active().Path, d.Want[disk.Target])
		}
		seen := d.Domain
		observe.FollowGrafts(&seen, intents[d.UUID]) // as every run does
		for i := range seen.Snapshots {
			checkStates(h, t, d, &seen.Snapshots[i])
		}
	}
	for path, want := range h.Pictures {
		reads(h, t, "image "+path, path, want)
	}
}

func checkStates(h *hosttest.Host, t *testing.T, d *hosttest.Domain, s *host.Snapshot) {
	t.Helper()
	for i := range s.Disks {
		if sd := &s.Disks[i]; sd.Overlay != "" {
			reads(h, t, "state of "+d.Name+"/"+s.Name+"/"+sd.Target, host.StateOf(&d.Domain, sd), d.States[s.Name][sd.Target])
		}
	}
}

func reads(h *hosttest.Host, t *testing.T, what, path string, want hosttest.Blocks) {
	t.Helper()
	if have := h.Read(path); !maps.Equal(have, want) {
		t.Fatalf("%s in %s reads\n%v, not\n%v", what, h.Short([]string{path}), have, want)
	}
}

// checkDone sees that nothing is left to do: metadata names the chains, no
// file and no intent is left over.
func checkDone(h *hosttest.Host, t *testing.T) {
	t.Helper()
	checkData(h, t)
	used := map[string]bool{}
	use := func(top string) []string {
		chain := h.Walk(top)
		for _, path := range chain {
			used[path] = true
		}
		return chain
	}
	for _, d := range h.Guests {
		for i := range d.Disks {
			use(d.Disks[i].Active().Path)
		}
		for i := range d.Snapshots {
			for _, sd := range d.Snapshots[i].Disks {
				if chain := use(sd.State[len(sd.State)-1]); !slices.Equal(chain, sd.State) || !slices.Equal(chain, sd.Inactive) {
					t.Fatalf("%s/%s/%s: metadata names %v and %v, the chain is %v", d.Name, d.Snapshots[i].Name, sd.Target,
						h.Short(sd.State), h.Short(sd.Inactive), h.Short(chain))
				}
				used[sd.Overlay] = true // libvirt's own operations need it
				if _, err := os.Stat(sd.Overlay); sd.Overlay != "" && err != nil && !d.Deleted[sd.Overlay] {
					t.Fatalf("%s/%s: the overlay that came with it by its metadata: %v", d.Name, d.Snapshots[i].Name, err)
				}
				checkSnapshotDisk(h, t, d, &d.Snapshots[i], &sd)
				if d.Snapshots[i].Current {
					checkRevertible(h, t, d, &sd)
				}
			}
		}
	}
	for path := range h.Pictures {
		use(path)
	}
	for _, d := range h.Guests {
		for i := range d.Snapshots {
			for _, path := range d.Snapshots[i].Kept() {
				used[path] = true
			}
		}
	}
	for _, path := range filesOf(h, t) {
		if !used[path] {
			t.Fatalf("left over: %s", h.Short([]string{path}))
		}
	}
	checkNoIntent(h, t)
}

// checkSnapshotDisk compares the state by the metadata with the one by the chain.
func checkSnapshotDisk(h *hosttest.Host, t *testing.T, d *hosttest.Domain, s *host.Snapshot, sd *host.SnapshotDisk) {
	t.Helper()
	if by := host.StateOf(&d.Domain, sd); sd.Overlay != "" && by != sd.State[len(sd.State)-1] {
		t.Fatalf("%s/%s/%s: its state is in %s, its metadata names %v", d.Name, s.Name, sd.Target, by, sd.State)
	}
}

func checkNoIntent(h *hosttest.Host, t *testing.T) {
	t.Helper()
	if left, _ := filepath.Glob(filepath.Join(h.Dir, "state", "intents", "*")); len(left) > 0 {
		t.Fatalf("intents left: %v", left)
	}
}

// filesOf lists the image files.
func filesOf(h *hosttest.Host, t *testing.T) []string {
	t.Helper()
	var files []string
	for _, dir := range []string{"img", "fs2", "far"} {
		entries, err := os.ReadDir(filepath.Join(h.Dir, dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() { // what hosts tell each other
				continue
			}
			files = append(files, filepath.Join(h.Dir, dir, e.Name()))
		}
	}
	return files
}

// lines writes each step as a line that tells all of its fields but bytes and reason.
func lines(h *hosttest.Host, t *testing.T, steps []decide.Step) []string {
	t.Helper()
	var lines []string
	for _, s := range steps {
		if s.Reason == "" {
			t.Errorf("%s: no reason", s)
		}
		known := decide.Step{Op: s.Op, Reason: s.Reason, Bytes: s.Bytes}
		line := ""
		switch s.Op {
		case decide.OpSnapshot:
			known.Snapshot, known.Disk, known.Path, known.Base = s.Snapshot, s.Disk, s.Path, s.Base
			line = fmt.Sprintf("snapshot %s %s: %s on %s", s.Snapshot, s.Disk, s.Path, s.Base)
		case decide.OpMerge:
			known.Disk, known.Method, known.Top, known.Base = s.Disk, s.Method, s.Top, s.Base
			line = fmt.Sprintf("%s %s: %s into %s", s.Method, s.Disk, s.From(), s.Into())
		case decide.OpDropMetadata, decide.OpRedefine:
			known.Snapshot = s.Snapshot
			line = fmt.Sprintf("%s %s", s.Op, s.Snapshot)
		case decide.OpDeleteFile:
			known.Disk, known.Path = s.Disk, s.Path
			line = "delete " + s.Path
		}
		if s != known {
			t.Errorf("%+v has fields that its kind does not", s)
		}
		lines = append(lines, strings.TrimSpace(h.Brief(line)))
	}
	return lines
}

// wantSteps compares the steps of a plan with the lines of want.
func wantSteps(h *hosttest.Host, t *testing.T, p decide.Plan, want string) {
	t.Helper()
	have := strings.Join(lines(h, t, p.Steps), "\n")
	want = strings.ReplaceAll(strings.TrimSpace(want), "\t", "")
	if have != want {
		t.Errorf("steps of %s:\n%s\nwant:\n%s\nrefused: %+v", p.Domain, have, want, p.Refused)
	}
}

// blockLines is blocks in order, to be compared.
func blockLines(h *hosttest.Host, b hosttest.Blocks) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(b)) {
		out = append(out, fmt.Sprintf("%d=%d", k, b[k]))
	}
	return out
}

// checkRevertible sees that no state of a snapshot needs what libvirt's own revert would delete:
// the files that the current snapshot names.
func checkRevertible(h *hosttest.Host, t *testing.T, d *hosttest.Domain, current *host.SnapshotDisk) {
	t.Helper()
	goes := cmp.Or(current.Reverted, current.Overlay)
	for i := range d.Snapshots {
		for _, sd := range d.Snapshots[i].Disks {
			if goes != "" && slices.Contains(h.Walk(sd.State[len(sd.State)-1]), goes) {
				t.Fatalf("%s: libvirt's own revert would delete %s, on which the state of %s of %s builds", d.Name, goes, d.Snapshots[i].Name, sd.Target)
			}
		}
	}
}
