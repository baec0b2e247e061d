package cli

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

const (
	optionsBegin = "<!-- options: go test ./internal/cli -run TableOfOptions -update -->\n"
	optionsEnd   = "<!-- end of options -->"
	imageManual  = "../../docs/image.md"
)

// Options that are taken, and mean nothing here; all other hidden ones are refused.
var meaningless = []string{"t", "T", "m", "W", "C"}

var optionOfHelp = regexp.MustCompile(`(?:^|[\s[(|])(-{1,2}[A-Za-z][A-Za-z-]*)`)

// helpOf are the commands of qemu-img, in their order, with the options that its help has.
func helpOf(t *testing.T) (names []string, options map[string][]string) {
	t.Helper()
	out, _, _ := qemuImg(t, "--help")
	_, syntax, ok := strings.Cut(out, "Command syntax:\n")
	syntax, _, _ = strings.Cut(syntax, "\n\n")
	if !ok {
		t.Fatalf("the help of qemu-img has another form:\n%s", out)
	}
	options = map[string][]string{}
	for line := range strings.Lines(syntax) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		names = append(names, name)
		for _, m := range optionOfHelp.FindAllStringSubmatch(rest, -1) {
			if !slices.Contains(options[name], m[1]) {
				options[name] = append(options[name], m[1])
			}
		}
	}
	return names, options
}

// The table in docs/image.md is what the two programs say of themselves.
func TestTheTableOfOptionsIsThatOfBothPrograms(t *testing.T) {
	version, _, _ := qemuImg(t, "--version")
	if !strings.Contains(version, "qemu-img version 7.2") {
		t.Logf("the table is of QEMU 7.2: %s", version)
		return
	}
	names, options := helpOf(t)
	table := "| qemu-img | as there | taken, without a meaning | refused, with the reason | not there | ours alone |\n|---|---|---|---|---|---|\n"
	for _, name := range names {
		ours := program()["image "+name]
		if ours == nil {
			table += fmt.Sprintf("| `%s` | | | | the command | |\n", name)
			continue
		}
		table += optionRow(name, options[name], ours)
	}
	b, err := os.ReadFile(imageManual)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begin := strings.Cut(string(b), optionsBegin)
	have, after, end := strings.Cut(rest, optionsEnd)
	if !begin || !end {
		t.Fatalf("%s has no place for the table", imageManual)
	}
	if *update {
		if err := os.WriteFile(imageManual, []byte(before+optionsBegin+table+optionsEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have != table {
		t.Errorf("%s has\n%s\nwant (-update writes it)\n%s", imageManual, have, table)
	}
}

func optionRow(name string, options []string, ours *cli.Command) string {
	var same, taken, refused, none, more []string
	for _, o := range options {
		switch hidden, has := hasOption(ours, o); {
		case !has:
			none = append(none, o)
		case !hidden:
			same = append(same, o)
		case slices.Contains(meaningless, strings.TrimLeft(o, "-")):
			taken = append(taken, o)
		default:
			refused = append(refused, o)
		}
	}
	for _, f := range ours.Flags {
		if v, ok := f.(cli.VisibleFlag); ok && v.IsVisible() && !slices.ContainsFunc(f.Names(), func(n string) bool {
			return slices.Contains(options, "-"+n) || slices.Contains(options, "--"+n)
		}) {
			more = append(more, "--"+f.Names()[0])
		}
	}
	cells := []string{"`" + name + "`"}
	for _, list := range [][]string{same, taken, refused, none, more} {
		for i := range list {
			list[i] = "`" + list[i] + "`"
		}
		cells = append(cells, strings.Join(list, " "))
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}

// hasOption tells whether the command takes the option, and whether its help hides it.
func hasOption(c *cli.Command, option string) (hidden, has bool) {
	for _, f := range c.Flags {
		if slices.Contains(f.Names(), strings.TrimLeft(option, "-")) {
			v, ok := f.(cli.VisibleFlag)
			return ok && !v.IsVisible(), true
		}
	}
	return false, false
}
