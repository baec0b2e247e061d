package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func readExample(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "examples", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestExamplePoliciesLoadWithoutWarnings(t *testing.T) {
	for _, path := range samples(t, "../examples/*.toml") {
		f, err := Load(path)
		if err != nil {
			t.Error(err)
		} else if w := f.Warnings(); len(w) > 0 {
			t.Error(w)
		}
	}
}

func TestFirstIsTheExampleAndLoads(t *testing.T) {
	if string(First()) != readExample(t, "first.toml") {
		t.Error("policy/first.toml and examples/first.toml differ")
	}
	f, err := Parse("first", First())
	if err != nil || len(f.Rules) != 1 || len(f.Warnings()) > 0 {
		t.Errorf("%+v, %v", f, err)
	}
	First()[0] = 'x'
	if First()[0] == 'x' {
		t.Error("First hands out its own memory")
	}
}

func TestRealisticExampleSelectsWhatItsCommentsSay(t *testing.T) {
	f, err := Load("../examples/realistic.toml")
	if err != nil {
		t.Fatal(err)
	}
	rules := f.Match([]string{"db-main", "ledger", "db-test-1", "web-1", "proxy-a", "proxy-c", "dc1", "test-7", "test-scratch-1"}).Rules
	for domain, want := range map[string]string{"db-main": "db", "ledger": "db", "db-test-1": "test", "web-1": "web",
		"proxy-a": "web", "proxy-c": "", "dc1": "windows-ad", "test-7": "test", "test-scratch-1": ""} {
		if got := rules[domain]; got == nil && want != "" || got != nil && got.Name != want {
			t.Errorf("%s gets %+v, want %q", domain, got, want)
		}
	}
}

// A year of each rule, merging only in the window: the chains of the
// examples must never reach max_chain.
func TestExampleChainsStayShortForAYear(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	for _, path := range samples(t, "../examples/*.toml") {
		f, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range f.Rules {
			r := &f.Rules[i]
			if layers := longestInAYear(r, berlin); layers > min(r.MaxChain, r.Longest()) {
				t.Errorf("%s: policy %s reaches %d layers; max_chain %d, Longest %d", path, r.Name, layers, r.MaxChain, r.Longest())
			}
		}
	}
}

// longestInAYear takes a snapshot whenever one is due, runs once an hour, and
// counts layers after each run.
func longestInAYear(r *Rule, loc *time.Location) int {
	start := time.Date(2026, 1, 1, 0, 17, 0, 0, loc)
	var taken []Snapshot
	longest := 0
	for now := start; now.Before(start.AddDate(1, 0, 0)); now = now.Add(time.Hour) {
		if len(taken) == 0 || now.Sub(taken[len(taken)-1].Time) >= r.Every {
			taken = append(taken, Snapshot{Name: now.String(), Time: now})
		}
		if r.Window.Open(now) {
			taken = afterMerges(r.Keep, taken, now)
		}
		longest = max(longest, 1+len(taken))
	}
	return longest
}

func afterMerges(k Keep, taken []Snapshot, now time.Time) []Snapshot {
	var kept []Snapshot
	for i, v := range k.Apply(taken, now) {
		if v.Keep {
			kept = append(kept, taken[i])
		}
	}
	return kept
}

// unit is a systemd unit: section, key, values in order.
type unit map[string]map[string][]string

func parseUnit(text string) (unit, error) {
	u, section := unit{}, ""
	for n, line := range strings.Split(text, "\n") {
		key, value, ok := strings.Cut(line, "=")
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[' && line[len(line)-1] == ']':
			section = line[1 : len(line)-1]
			u[section] = map[string][]string{}
		case !ok || section == "" || strings.TrimSpace(key) != key:
			return nil, fmt.Errorf("line %d: %q", n+1, line)
		default:
			u[section][key] = append(u[section][key], value)
		}
	}
	return u, nil
}

// checkCommand wants a command line with known subcommands and flags only.
func checkCommand(t *testing.T, line string) {
	t.Helper()
	words := strings.Fields(line)
	if len(words) < 2 || words[0] != "/usr/local/bin/virt-rotate" {
		t.Fatalf("not a command of ours: %q", line)
	}
	runs := 0
	for i := 1; i < len(words); i++ {
		switch words[i] {
		case "run":
			runs++
		case "--policy":
			i++ // its file
			if runs > 0 || i >= len(words) || !strings.HasPrefix(words[i], "/") {
				t.Errorf("--policy stands before run and has a file: %q", line)
			}
		case "--no-snapshot", "--now":
			if runs == 0 {
				t.Errorf("%s is a flag of run: %q", words[i], line)
			}
		default:
			t.Errorf("unknown word %q in %q", words[i], line)
		}
	}
	if runs != 1 {
		t.Errorf("%d subcommands in %q", runs, line)
	}
}

func TestExampleServiceRunsToItsEnd(t *testing.T) {
	u, err := parseUnit(readExample(t, "virt-rotate.service"))
	if err != nil {
		t.Fatal(err)
	}
	service := u["Service"]
	for key, want := range map[string]string{"Type": "oneshot", "TimeoutStartSec": "infinity", "KillSignal": "SIGTERM",
		"ExecStart": "/usr/local/bin/virt-rotate run", "SuccessExitStatus": "5", "StateDirectory": "virt-rotate", "NoNewPrivileges": "yes"} {
		if !slices.Equal(service[key], []string{want}) {
			t.Errorf("%s = %q, want %q", key, service[key], want)
		}
	}
	for _, key := range []string{"PrivateDevices", "ProtectClock", "Restart"} {
		if service[key] != nil {
			t.Errorf("%s is set", key)
		}
	}
	checkCommand(t, service["ExecStart"][0])
}

func TestExampleTimerIsHourlyAndPersistent(t *testing.T) {
	text := readExample(t, "virt-rotate.timer")
	u, err := parseUnit(text)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(u["Timer"]["OnCalendar"], []string{"hourly"}) || !slices.Equal(u["Timer"]["Persistent"], []string{"true"}) ||
		!slices.Equal(u["Install"]["WantedBy"], []string{"timers.target"}) {
		t.Errorf("%v", u)
	}
	_, shown, ok := strings.Cut(text, "#   ExecStart=")
	if !ok {
		t.Fatal("the comment shows no second pair")
	}
	command, _, _ := strings.Cut(shown, "\n")
	checkCommand(t, command)
}

// Lines that are commented out are checked as well: people uncomment them.
func TestExampleCronLines(t *testing.T) {
	jobs := 0
	for _, line := range strings.Split(readExample(t, "virt-rotate.cron"), "\n") {
		fields := strings.Fields(strings.TrimPrefix(line, "#"))
		if len(fields) < 7 || !strings.ContainsAny(fields[0], "0123456789*") || strings.Trim(fields[0], "0123456789*/,-") != "" {
			continue
		}
		jobs++
		if fields[5] != "root" {
			t.Errorf("user %q in %q", fields[5], line)
		}
		checkCommand(t, strings.Join(fields[6:], " "))
	}
	if jobs != 2 {
		t.Errorf("%d jobs, want 2", jobs)
	}
}
