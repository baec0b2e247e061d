package cli

import (
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/manpage"
)

// program is the command tree, as far as it is not hidden; the program itself is "". The flag
// for help, which all have, is that of the program alone.
func program() map[string]*cli.Command {
	app := newApp(&term.Env{Out: io.Discard, Err: io.Discard}, "dev")
	app.Setup()
	all := map[string]*cli.Command{"": {Description: app.Description, Flags: app.Flags, Subcommands: app.Commands}}
	var walk func(path string, commands []*cli.Command)
	walk = func(path string, commands []*cli.Command) {
		for _, c := range commands {
			if !c.Hidden && c.Name != "help" {
				name := strings.TrimSpace(path + " " + c.Name)
				all[name] = c
				walk(name, c.Subcommands)
			}
		}
	}
	walk("", app.Commands)
	return all
}

// A manFlag is one option of a command, with all its names.
type manFlag struct {
	names []string // sorted, with their dashes
	value bool
}

func flagsOf(path string, c *cli.Command) []manFlag {
	var all []manFlag
	for _, f := range c.Flags {
		if v, ok := f.(cli.VisibleFlag); ok && !v.IsVisible() || path != "" && slices.Contains(f.Names(), "help") {
			continue
		}
		flag := manFlag{}
		for _, name := range f.Names() {
			flag.names = append(flag.names, strings.Repeat("-", min(len(name), 2))+name)
		}
		slices.Sort(flag.names)
		v, ok := f.(cli.DocGenerationFlag)
		flag.value = ok && v.TakesValue()
		all = append(all, flag)
	}
	return all
}

func pages(t *testing.T) []*manpage.Page {
	t.Helper()
	all, err := manpage.Read("../..")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// pageOf finds the page that has a command in its synopsis.
func pageOf(t *testing.T, command string) (*manpage.Page, []manpage.Synopsis) {
	t.Helper()
	var page *manpage.Page
	var found []manpage.Synopsis
	for _, p := range pages(t) {
		for _, s := range p.Synopses {
			if s.Command == command {
				if page != nil && page != p {
					t.Errorf("%q is in two pages: %s and %s", command, page.Name, p.Name)
				}
				page, found = p, append(found, s)
			}
		}
	}
	if page == nil {
		t.Fatalf("no page has %q in its synopsis", command)
	}
	return page, found
}

func TestEveryOptionOfEveryCommandHasAnEntryInItsPage(t *testing.T) {
	for path, command := range program() {
		if path != "" && len(command.Subcommands) > 0 {
			continue // a group: its commands have a page
		}
		page, synopses := pageOf(t, path)
		var called []string
		for _, s := range synopses {
			called = append(called, s.Flags...)
		}
		items := page.Section("OPTIONS", "")
		if path != "" {
			items = append(items, page.Section("OPTIONS", path)...)
		}
		for _, f := range flagsOf(path, command) {
			if n := countOf(items, f); n != 1 {
				t.Errorf("%s: %q: %d entries (value: %v) for %s, want 1", page.Name, path, n, f.value, f.names)
			}
			before := len(called)
			called = slices.DeleteFunc(called, func(name string) bool { return slices.Contains(f.names, name) })
			if before-len(called) != 1 {
				t.Errorf("%s: the synopsis of %q has %s %d times, want once", page.Name, path, f.names, before-len(called))
			}
		}
		if len(called) > 0 {
			t.Errorf("%s: the synopsis of %q has %s, which the command has not", page.Name, path, called)
		}
	}
}

// countOf counts the entries that name just this flag, with all its names.
func countOf(items []manpage.Item, f manFlag) int {
	n := 0
	for _, i := range items {
		if slices.Equal(slices.Sorted(slices.Values(i.Flags)), f.names) && i.Value == f.value {
			n++
		}
	}
	return n
}

func TestPagesHaveNoOptionAndNoCommandThatTheProgramHasNot(t *testing.T) {
	all := program()
	for _, p := range pages(t) {
		var commands []string
		for _, s := range p.Synopses {
			if c := all[s.Command]; c == nil || s.Command != "" && len(c.Subcommands) > 0 {
				t.Errorf("%s: %q is no command", p.Name, s.Command)
			}
			commands = append(commands, s.Command)
		}
		for _, i := range p.Items {
			if len(i.Flags) == 0 {
				continue
			}
			if i.Section != "OPTIONS" || i.Subsection != "" && !slices.Contains(commands, i.Subsection) {
				t.Errorf("%s: %s is an entry of %q, %q", p.Name, i.Flags, i.Section, i.Subsection)
			}
			if !slices.ContainsFunc(commands, func(path string) bool {
				return (i.Subsection == "" || i.Subsection == path) && all[path] != nil &&
					slices.ContainsFunc(flagsOf(path, all[path]), func(f manFlag) bool { return countOf([]manpage.Item{i}, f) == 1 })
			}) {
				t.Errorf("%s: %q has no option %s", p.Name, i.Subsection, i.Flags)
			}
		}
	}
}

func TestTheFirstPageHasEveryCommand(t *testing.T) {
	page, _ := pageOf(t, "")
	var got, want []string
	for _, i := range page.Section("COMMANDS", "") {
		got = append(got, i.Words...)
	}
	for path := range program() {
		if path != "" && !strings.Contains(path, " ") {
			want = append(want, path)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("it has %q, want %q", got, want)
	}
}

var exitLine = regexp.MustCompile(`(?m)^ +([0-9]+)  (.*)$`)

// A command whose exit statuses are its own has them below a heading with its name.
func TestPagesHaveTheExitStatusesOfTheHelp(t *testing.T) {
	for path, command := range program() {
		if path != "" && len(command.Subcommands) > 0 {
			continue
		}
		page, _ := pageOf(t, path)
		var want, meant, got []string
		for _, m := range exitLine.FindAllStringSubmatch(command.Description, -1) {
			want = append(want, m[1])
			text, _, _ := strings.Cut(m[2], " (doctor: ") // of one command
			meant = append(meant, text)
		}
		at := ""
		for _, i := range page.Items {
			if i.Section == "EXIT STATUS" && path != "" && slices.Contains(strings.Split(i.Subsection, ", "), path) {
				at = i.Subsection
			}
		}
		for _, i := range page.Section("EXIT STATUS", at) {
			got = append(got, i.Words...)
			if n := len(got); n <= len(want) && !strings.HasPrefix(i.Text, meant[n-1]) {
				t.Errorf("%s: %q: %s is %q, want %q", page.Name, path, i.Words, i.Text, meant[n-1])
			}
		}
		if len(want) == 0 || !slices.Equal(got, want) {
			t.Errorf("%s: %q: exit statuses %s, want %s", page.Name, path, got, want)
		}
	}
	page, _ := pageOf(t, "")
	if n := len(page.Section("EXIT STATUS", "")); n != term.ExitLocked+1 {
		t.Errorf("%s has %d exit statuses, term has 0 to %d", page.Name, n, term.ExitLocked)
	}
}

// The names of options in examples are looked at; what they do is tested elsewhere.
func TestExamplesInPagesUseCommandsAndOptionsThatThereAre(t *testing.T) {
	all := program()
	seen := 0
	for _, p := range pages(t) {
		for _, example := range p.Examples {
			for line := range strings.Lines(strings.ReplaceAll(example, "\\\n", " ")) {
				_, line, found := strings.Cut(line, "virt-rotate ")
				if !found {
					continue
				}
				line, _, _ = strings.Cut(line, "|")
				line, _, _ = strings.Cut(line, " -- ") // what follows is another program's
				seen++
				words := strings.Fields(line)
				path := words[0]
				if len(words) > 1 && all[path+" "+words[1]] != nil {
					path += " " + words[1]
				}
				if all[path] == nil {
					t.Errorf("%s: %q is no command: %s", p.Name, path, line)
					continue
				}
				flags := append(flagsOf(path, all[path]), flagsOf("", all[""])...)
				for _, word := range words[1:] {
					name, _, _ := strings.Cut(word, "=")
					if len(name) > 1 && name[0] == '-' && !slices.ContainsFunc(flags, func(f manFlag) bool { return slices.Contains(f.names, name) }) {
						t.Errorf("%s: %q has no option %s: %s", p.Name, path, name, line)
					}
				}
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d examples were found", seen)
	}
}

// Each display of examples finds the same images: a chain of four, a golden image, a base that was moved, and one
// with an internal snapshot.
func TestTheExamplesOfTheImagePageWork(t *testing.T) {
	page, _ := pageOf(t, "image info")
	ran := 0
	for _, example := range page.Examples {
		dir := t.TempDir()
		for _, sub := range []string{"moved", "images"} {
			if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		t.Chdir(filepath.Join(dir, "images"))
		for _, name := range []string{"../moved/base.qcow2", "golden.qcow2", "web.qcow2"} {
			must(t, "image", "create", "-f", "qcow2", name, "1M")
		}
		must(t, "image", "create", "-f", "qcow2", "old.qcow2", "1M")
		if out, err := exec.Command("qemu-img", "snapshot", "-c", "s1", "old.qcow2").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, pair := range [][2]string{{"web", "web.snap1"}, {"web.snap1", "web.snap2"}, {"web.snap2", "web.snap3"}} {
			must(t, "image", "create", "-f", "qcow2", "-b", pair[0]+".qcow2", "-F", "qcow2", pair[1]+".qcow2")
		}
		for line := range strings.Lines(example) {
			words := strings.Fields(line)
			if words[1] != "virt-rotate" {
				t.Fatalf("no command: %s", line)
			}
			must(t, words[2:]...)
			ran++
		}
	}
	if ran < 8 {
		t.Errorf("only %d examples were run", ran)
	}
}

// others are pages of other packages that ours may refer to.
var others = []string{"cron.8", "debugfs.8", "guestfish.1", "nbdcopy.1", "qemu-img.1", "qemu-nbd.8", "sha256sum.1", "sudo.8", "systemd.1", "virsh.1"}

func TestPagesReferToPagesThatThereAre(t *testing.T) {
	known := map[string]bool{}
	for _, name := range others {
		known[name] = true
	}
	all := pages(t)
	for _, p := range all {
		known[p.Name] = true
	}
	used := map[string]bool{}
	for _, p := range all {
		for _, ref := range p.Refs {
			used[ref] = true
			if !known[ref] {
				t.Errorf("%s refers to %s", p.Name, ref)
			}
		}
	}
	if unused := slices.DeleteFunc(slices.Sorted(maps.Keys(known)), func(name string) bool { return used[name] }); len(unused) > 0 {
		t.Errorf("nothing refers to %s", unused)
	}
}
