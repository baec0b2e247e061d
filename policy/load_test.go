package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func samples(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples %s: %v", pattern, err)
	}
	return files
}

func TestGoodSamplesLoad(t *testing.T) {
	for _, path := range samples(t, "testdata/good/*.toml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			f, err := Load(path)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, strings.TrimSuffix(path, "toml")+"want", describeFile(f))
		})
	}
}

// describeFile has everything that a File holds.
func describeFile(f *File) string {
	var b strings.Builder
	fmt.Fprintf(&b, "path %s\nconnect %q\nstate_dir %q\nmetrics_file %q\n%s%s", f.Path, f.Connect, f.StateDir, f.MetricsFile, f.Storage.TOML(), f.Check.TOML())
	for i := range f.Rules {
		r := &f.Rules[i]
		fmt.Fprintf(&b, "\n# line %d, at most %d layers\n%s", r.Line, r.Longest(), r.TOML())
	}
	return b.String()
}

func TestBadSamplesTellEveryProblem(t *testing.T) {
	for _, path := range samples(t, "testdata/bad/*.toml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			f, err := Load(path)
			var problems Problems
			if f != nil || !errors.As(fmt.Errorf("load: %w", err), &problems) {
				t.Fatalf("Load = %v, %v; want Problems", f, err)
			}
			checkPlaces(t, path, problems)
			golden(t, strings.TrimSuffix(path, "toml")+"want", err.Error()+"\n")
		})
	}
}

// checkPlaces wants each problem in the file and on one of its lines.
func checkPlaces(t *testing.T, path string, problems Problems) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := max(1, strings.Count(string(data), "\n"))
	last := 1
	for _, p := range problems {
		if p.File != path || p.Line < last || p.Line > lines || p.Text == "" || strings.Contains(p.Error(), "\n") {
			t.Errorf("bad problem, or out of order: %+v", p)
		}
		last = p.Line
	}
}

func TestDesignExampleLoadsWithEveryValue(t *testing.T) {
	f, err := Load("testdata/good/design.toml")
	if err != nil {
		t.Fatal(err)
	}
	want := &File{
		Path: "testdata/good/design.toml", Connect: "qemu:///system", StateDir: "/var/lib/virt-rotate",
		Storage: Storage{SilentAfter: 7 * 24 * time.Hour, Slots: 3}, Ping: Ping{Method: PingPost, Timeout: 10 * time.Second}, Check: HostCheck{Uncovered: SeverityWarn}, Coordination: Coordination{Engine: EngineShare, Prefix: coordinationPrefix},
		Rules: []Rule{{
			Name: "web", Domains: []string{"web-*"}, Exclude: []string{"web-scratch"}, Disks: []string{"vd*"}, OnUnsuitable: UnsuitableRefuse,
			Every: time.Hour, Keep: Keep{Last: 24, Daily: 7, Weekly: 4, Monthly: 6},
			Method: MethodAuto, Quiesce: QuiesceAuto, MaxChain: 30, MinFree: MinFree{Percent: 10},
			Bandwidth: 200 << 20, Window: Window{60, 300}, Offline: OfflineNative, Hooks: Hooks{Timeout: 5 * time.Minute},
			Check: Check{Warn: 2, Crit: 4, Timer: time.Hour, Waiting: 48 * time.Hour}, Line: 8,
		}},
	}
	if f.lines = (lineIndex{}); !reflect.DeepEqual(f, want) {
		t.Errorf("got %+v\nwant %+v", f, want)
	}
}

func TestMissingKeysGetTheDocumentedDefaults(t *testing.T) {
	f := mustParse(t, "policy.a = { domains = ['a'], keep = { last = 1 } }")
	want := &File{Path: "test.toml", Storage: Storage{SilentAfter: 7 * 24 * time.Hour, Slots: 3}, Ping: Ping{Method: PingPost, Timeout: 10 * time.Second}, Check: HostCheck{Uncovered: SeverityWarn}, Coordination: Coordination{Engine: EngineShare, Prefix: coordinationPrefix}, Rules: []Rule{{
		Name: "a", Domains: []string{"a"}, OnUnsuitable: UnsuitableRefuse, Every: 24 * time.Hour, Keep: Keep{Last: 1},
		Method: MethodAuto, Quiesce: QuiesceAuto, MaxChain: 30, MinFree: MinFree{Percent: 10},
		Offline: OfflineNative, Hooks: Hooks{Timeout: 5 * time.Minute},
		Check: Check{Warn: 2, Crit: 4, Timer: time.Hour, Waiting: 48 * time.Hour}, Line: 1,
	}}}
	if f.lines = (lineIndex{}); !reflect.DeepEqual(f, want) {
		t.Errorf("got %+v\nwant %+v", f, want)
	}
}

func TestRulesShareNoMemory(t *testing.T) {
	f := mustParse(t, "defaults = { disks = ['vda'], exclude_disks = ['vdx'], keep.last = 1, hooks.failed = ['/x'] }\npolicy.a.domains = ['a']\npolicy.b.domains = ['b']")
	f.Rules[0].Disks[0], f.Rules[0].ExcludeDisks[0], f.Rules[0].Hooks.Failed[0] = "changed", "changed", "changed"
	if f.Rules[1].Disks[0] != "vda" || f.Rules[1].ExcludeDisks[0] != "vdx" || f.Rules[1].Hooks.Failed[0] != "/x" {
		t.Error("a change of one rule shows in the other")
	}
}

func TestLoadOfMissingFileSaysSo(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.toml"))
	var problems Problems
	if !errors.Is(err, fs.ErrNotExist) || errors.As(err, &problems) {
		t.Errorf("got %v; want fs.ErrNotExist and no Problems", err)
	}
}

func TestProblemLeavesOutWhatIsUnknown(t *testing.T) {
	for want, p := range map[string]Problem{
		"f:3: a.b: t": {"f", 3, "a.b", "t"},
		"f: a: t":     {"f", 0, "a", "t"},
		"f:3: t":      {"f", 3, "", "t"},
	} {
		if p.Error() != want {
			t.Errorf("%+v = %q, want %q", p, p.Error(), want)
		}
	}
}

func TestSingleProblemIsReachedByAs(t *testing.T) {
	_, err := Parse("f", []byte("x = 1"))
	var p Problem
	if !errors.As(err, &p) || p.File != "f" {
		t.Errorf("errors.As gave %+v from %v", p, err)
	}
}
